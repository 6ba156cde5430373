# SPDX-License-Identifier: Apache-2.0
"""Which files of a repository are needed."""

from __future__ import annotations

import pytest

from serverlessllm.errors import CorruptDataError
from serverlessllm.sources.base import RemoteFile
from serverlessllm.sources.hub_files import needed_files


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "config.json model.safetensors pytorch_model.bin consolidated.00.pth tf_model.h5 README.md",
            "config.json model.safetensors",
        ),
        (
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model.safetensors.index.json consolidated.safetensors params.json tokenizer.model",
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model.safetensors.index.json params.json tokenizer.model",
        ),
        (
            "config.json pytorch_model.bin training_args.bin optimizer.pt pytorch_model.bin.index.json",
            "config.json pytorch_model.bin pytorch_model.bin.index.json",
        ),
        ("config.json custom.bin training_args.bin", "config.json custom.bin"),
        ("consolidated.safetensors config.json", "config.json consolidated.safetensors"),
        ("model.Q4.gguf config.json", "config.json model.Q4.gguf"),
        (
            "model.safetensors modules.json 1_Pooling/config.json onnx/config.json",
            "1_Pooling/config.json model.safetensors modules.json",
        ),
        (
            "model.safetensors onnx/config.json original/model.safetensors chat.jinja",
            "chat.jinja model.safetensors",
        ),
    ],
)
def test_one_copy_of_the_weights_and_what_belongs_to_it(names: str, expected: str) -> None:
    found = needed_files([RemoteFile(name, 1) for name in names.split()], where="hf://o/n")
    assert [file.name for file in found] == expected.split()


def test_repository_without_weights_is_an_error() -> None:
    with pytest.raises(CorruptDataError, match="holds no weights"):
        needed_files([RemoteFile("README.md", 1), RemoteFile("x.pth", 1)], where="hf://o/n")
