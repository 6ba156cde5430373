# SPDX-License-Identifier: Apache-2.0
"""Write an artifact back as a Hugging Face directory, so that peers load the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from serverlessllm.checkpoint.reader import Artifact

_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def export(source: Path, directory: Path) -> Path:
    """`directory` with config, tokenizer and one `model.safetensors`; left as it is when it exists already."""
    if (directory / "model.safetensors").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    artifact = Artifact.open(
        source
    )  # of our own: its mapping ends here, and the file can leave the page cache
    for entry in artifact.index.files:
        (directory / entry.name).write_bytes(artifact.file(entry.name))
    tensors = {
        entry.name: torch.frombuffer(
            bytearray(artifact.tensor(entry.name)), dtype=_DTYPES[entry.dtype]
        ).reshape(entry.shape)
        for entry in artifact.index.tensors
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
