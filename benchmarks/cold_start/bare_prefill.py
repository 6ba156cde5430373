# SPDX-License-Identifier: Apache-2.0
"""The floor under a hot start: our engine's prefill of the prompt, in process, without HTTP, text or queue.

usage: bare_prefill.py ARTIFACT_DIR DTYPE PROMPT_IDS_JSON
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.engine import create
from serverlessllm.wire.worker import Generate, SamplingParams


def main() -> None:
    """Bind once, then one prefill per line of standard input."""
    directory, dtype, prompt = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    artifact = Artifact.open(directory)
    region = bytearray(artifact.index.weights_nbytes)
    for file in artifact.index.weight_files:
        # Read, not mapped: a mapped file cannot be dropped from the page cache.
        with (directory / file.name).open("rb") as source:
            source.readinto(memoryview(region)[file.region_offset :][: file.nbytes])
    engine = create(dtype, len(os.sched_getaffinity(0)))
    engine.prime()
    engine.attach_weights(Weights(memoryview(region), artifact.layout()), EngineLimits(1, 0), {})
    request = Generate("warm", prompt, 1, SamplingParams(temperature=0.0), [])
    engine.add(request)
    engine.step()
    print(json.dumps({"num_prompt_tokens": len(prompt)}), flush=True)
    for number, _ in enumerate(sys.stdin, 1):
        # Another first id each time: a prompt that was seen before would not be computed again.
        request = Generate(f"bare-{number}", [number, *prompt[1:]], 1, SamplingParams(temperature=0.0), [])
        started = time.perf_counter()
        engine.add(request)
        engine.step()
        print(json.dumps({"ms": (time.perf_counter() - started) * 1000}), flush=True)


if __name__ == "__main__":
    main()
