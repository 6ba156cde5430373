# SPDX-License-Identifier: Apache-2.0
"""Does the GPU compute what the CPU does? Our engine on both, float32, over one artifact.

usage: same_answers.py ARTIFACT_DIR

Greedy answers of several prompts with the log-probability of each id; prints the largest difference, and how many ids
differ other than at a near tie.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.clock import SystemClock
from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.wire.worker import Generate, SamplingParams, TokenEvent

NUM_PROMPTS = 8
NUM_TOKENS = 24
NEAR_TIE = 1e-3


def answers(artifact: Artifact, device: str) -> dict[str, list[TokenEvent]]:
    """Events by request, all requests batched."""
    region = b"".join(
        (artifact.directory / file).read_bytes()
        for file in dict.fromkeys(shard.encodings[0].file for shard in artifact.index.shards)
    )
    engine = LlamaEngine("float32", SystemClock(), torch.device(device))
    engine.attach_weights(Weights(memoryview(region), artifact.layout()), EngineLimits(NUM_PROMPTS, 512), {})
    for number in range(NUM_PROMPTS):
        prompt = [(17 * number + 31 * at) % 1000 + 1 for at in range(5 + 7 * number)]
        engine.add(
            Generate(f"r{number}", prompt, NUM_TOKENS, SamplingParams(temperature=0.0), [], logprobs=2)
        )
    found: dict[str, list[TokenEvent]] = {}
    while engine.has_work:
        for event in engine.step():
            found.setdefault(event.request_id, []).append(event)
    engine.detach_weights()
    return found


def main() -> None:
    """Compare and print one JSON line."""
    torch.backends.cuda.matmul.allow_tf32 = False
    artifact = Artifact.open(Path(sys.argv[1]))
    cpu, gpu = answers(artifact, "cpu"), answers(artifact, "cuda" if torch.cuda.is_available() else "cpu")
    worst, num_equal, num_ties, num_wrong = 0.0, 0, 0, 0
    for name, events in cpu.items():
        for ours, theirs in zip(events, gpu[name], strict=True):
            if ours.logprobs is None or theirs.logprobs is None:
                raise RuntimeError("no log-probabilities came back")
            if ours.token_id != theirs.token_id:
                margin = ours.logprobs.top_logprobs[0] - ours.logprobs.top_logprobs[1]
                num_ties += margin < NEAR_TIE
                num_wrong += margin >= NEAR_TIE
                break
            num_equal += 1
            worst = max(worst, abs(ours.logprobs.logprob - theirs.logprobs.logprob))
    print(
        json.dumps(
            {
                "gpu_worst_logprob_difference": worst,
                "gpu_equal_ids": float(num_equal),
                "gpu_near_ties": float(num_ties),
                "gpu_wrong_ids": float(num_wrong),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
