# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters as PEFT saves them, with random numbers, and the model that they make of a base: plain torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from serverlessllm.engine.base import Weights
from serverlessllm.types import ADAPTER_MODEL_TYPE
from support.llama_region import pack_region

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 4
ALPHA = 12.0


def random_adapter(
    shapes: Mapping[str, Sequence[int]], targets: Sequence[str] = ALL, *, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Both matrices of every target; `shapes` are the base model's parameters, (out_features, in_features)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        stem = name.removesuffix(".weight")
        if stem.rpartition(".")[2] in targets:
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, shape[1], generator=generator) * 0.3
            tensors[f"{stem}.lora_B.weight"] = torch.randn(shape[0], RANK, generator=generator) * 0.3
    return tensors


def adapter_weights(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """The adapter's region, for the engine."""
    config = {"model_type": ADAPTER_MODEL_TYPE, "r": RANK, "scale": ALPHA / RANK}
    return pack_region(config, dict(tensors), {})


def merged(reference: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A copy of the model with `W + B A · alpha / r` in every target: what PEFT computes."""
    model = copy.deepcopy(reference)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, a in tensors.items():
            if ".lora_A." in name:
                b = tensors[name.replace("lora_A", "lora_B")]
                parameters[name.replace(".lora_A", "")].add_(b @ a * (ALPHA / RANK))
    return model


def write_adapter(directory: Path, tensors: Mapping[str, torch.Tensor], **changes: object) -> Path:
    """As `PeftModel.save_pretrained` lays it out."""
    directory.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    config |= {"target_modules": list(ALL), "use_dora": False, "modules_to_save": None}
    (directory / "adapter_config.json").write_text(json.dumps(config | changes))
    stored = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "adapter_model.safetensors")
    return directory
