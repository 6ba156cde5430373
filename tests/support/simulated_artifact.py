# SPDX-License-Identifier: Apache-2.0
"""An artifact for the simulated engine: a real tokenizer and template, and weights that nobody reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from blake3 import blake3

from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.writer import ArtifactWriter
from support.tiny_tokenizer import tiny_tokenizer_files

VOCAB_SIZE: Final = 800
"""Below the tiny tokenizer's vocabulary, so that every sampled id has text."""
CONTEXT_TOKENS: Final = 4096
_NUM_TENSORS: Final = 4


def write_simulated_artifact(
    parent: Path, name: str = "a", *, nbytes: int = 64 << 10, context_tokens: int = CONTEXT_TOKENS
) -> Artifact:
    """Publish `nbytes` of weights to `parent/<revision>`; another `name` is another revision."""
    config = {
        "model_type": "simulated",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": context_tokens,
        "eos_token_id": 2,
    }
    specs = [
        TensorSpec(f"model.layers.{i}.weight", "u8", (nbytes // _NUM_TENSORS,)) for i in range(_NUM_TENSORS)
    ]
    arrangement = arrange(specs)
    with ArtifactWriter(parent) as writer:
        writer.add_file("config.json", json.dumps(config).encode())
        for file_name, data in tiny_tokenizer_files().items():
            writer.add_file(file_name, data)
        writer.begin(arrangement, {})
        for entry in arrangement.tensors:
            writer.write(entry.name, blake3(f"{name}/{entry.name}".encode()).digest(entry.nbytes))
        return writer.publish(source_digest="1" * 64, architecture_digest="2" * 64)
