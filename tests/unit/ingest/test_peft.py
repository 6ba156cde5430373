# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters as PEFT saves them: what is kept, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.errors import CheckpointError, UnsupportedCheckpointError
from serverlessllm.ingest.convert import convert
from serverlessllm.ingest.formats.registry import open_source
from support.peft_adapter import random_adapter, write_adapter

SHAPES = {"model.layers.0.self_attn.q_proj.weight": (6, 4), "model.layers.0.mlp.down_proj.weight": (4, 8)}


def test_adapter_becomes_an_artifact_with_its_scale(tmp_path: Path) -> None:
    tensors = random_adapter(SHAPES)
    report = convert(write_adapter(tmp_path / "adapter", tensors), tmp_path / "out")
    artifact = Artifact.open(Path(report.directory))
    assert artifact.config() == {"model_type": "lora_adapter", "r": 4, "scale": 3.0}
    for name, tensor in tensors.items():
        assert bytes(artifact.tensor(name)) == tensor.contiguous().numpy().tobytes()


def test_rank_stabilised_scale_divides_by_the_root(tmp_path: Path) -> None:
    source = open_source(write_adapter(tmp_path / "adapter", random_adapter(SHAPES), use_rslora=True))
    assert source.config()["scale"] == 6.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("bias", "all"),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("layer_replication", [[0, 1]]),
        ("r", 0),
        ("lora_alpha", "much"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_its_key(tmp_path: Path, key: str, value: object) -> None:
    directory = write_adapter(tmp_path / "adapter", random_adapter(SHAPES), **{key: value})
    with pytest.raises(CheckpointError) as caught:
        open_source(directory)
    assert caught.value.param == key


def test_adapter_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "adapter", {"x.lora_A.weight": torch.zeros(1, 1)})
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpointError, match=r"adapter_model\.safetensors"):
        open_source(directory)
