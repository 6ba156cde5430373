# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters beside a model: `y += (x Aᵀ) Bᵀ scale` for the rows that ask for it. Knows no requests.

Adapters are views of their own region, as weights are, or copies on a GPU. Rows of several adapters
and of none share one pass; the products of the base are computed once for all of them.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; scaling as in PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch

from serverlessllm.engine.base import Weights
from serverlessllm.engine.llama.architecture_fields import number
from serverlessllm.engine.llama.batch import DecodeRow, Prompt
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.types import ADAPTER_MODEL_TYPE

Part = Literal["qkv", "o", "gate_up", "down"]
_NAME: Final = re.compile(r"model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)_proj\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class _Update:
    """Columns `start:end` of a product: `a` (rank, in_features), `b` (end - start, rank), scaled."""

    start: int
    end: int
    a: torch.Tensor
    b: torch.Tensor


class LoraAdapter:
    """The updates of one adapter, by layer and product."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, dtype: torch.dtype, device: torch.device = CPU
    ) -> None:
        """Raises: UnsupportedCheckpointError for a tensor that belongs to no product of this model;
        CheckpointFormatError for one that is missing or of another shape.
        """
        architecture = weights.layout.architecture
        if architecture.get("model_type") != ADAPTER_MODEL_TYPE:
            raise UnsupportedCheckpointError(
                "config.json: model_type: this is no LoRA adapter", source="engine"
            )
        self.device = device
        self._scale = number(architecture, "scale")
        self._updates: dict[tuple[int, Part], list[_Update]] = {}
        places = _places(config)
        tensors = RegionTensors(weights, dtype)
        shapes = {entry.name: entry.shape for entry in weights.layout.tensors}
        for name in shapes:
            match = _NAME.fullmatch(name)
            place = places.get(match[3]) if match else None
            if match is None or place is None or int(match[1]) >= config.num_layers:
                raise UnsupportedCheckpointError(
                    f"adapter tensor {name}: adapts what is not adapted here, or not of this model",
                    param=name,
                    source="engine",
                )
            if match[4] == "A":
                self._add(tensors, name, shapes[name], (int(match[1]), place[0]), place)

    def updates(self, layer: int, part: Part) -> Sequence[_Update]:
        """What is added to one product."""
        return self._updates.get((layer, part), ())

    def _add(
        self,
        tensors: RegionTensors,
        name: str,
        shape: tuple[int, ...],
        key: tuple[int, Part],
        place: tuple[Part, int, int, int],
    ) -> None:
        _, start, end, num_inputs = place
        if len(shape) != 2 or shape[1] != num_inputs:
            raise CheckpointFormatError(
                f"adapter tensor {name}: shape {shape} does not fit {num_inputs} inputs of the model",
                param=name,
                source="engine",
            )
        a = tensors.tensor(name, shape).to(self.device)
        b = tensors.tensor(name.replace("lora_A", "lora_B"), (end - start, shape[0])).to(self.device)
        self._updates.setdefault(key, []).append(_Update(start, end, a, b * self._scale))


def _places(config: LlamaConfig) -> dict[str, tuple[Part, int, int, int]]:
    """Projection → product, columns of it, and inputs."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q": ("qkv", 0, q, hidden),
        "k": ("qkv", q, q + kv, hidden),
        "v": ("qkv", q + kv, q + 2 * kv, hidden),
        "o": ("o", 0, hidden, q),
        "gate": ("gate_up", 0, ffn, hidden),
        "up": ("gate_up", ffn, 2 * ffn, hidden),
        "down": ("down", 0, hidden, ffn),
    }


@dataclass(frozen=True, slots=True)
class LoraRows:
    """Which rows of a batch each adapter has; `last` counts among the rows whose logits are wanted."""

    rows: tuple[tuple[LoraAdapter, torch.Tensor], ...]
    last: tuple[tuple[LoraAdapter, torch.Tensor], ...]

    @classmethod
    def of(
        cls,
        decodes: Sequence[tuple[DecodeRow, str]],
        prompts: Sequence[tuple[Prompt, str]],
        adapters: Mapping[str, LoraAdapter],
    ) -> LoraRows | None:
        """Rows in the order of `build_batch`, each with its adapter's name; None where none has one."""
        rows: dict[str, list[int]] = {}
        last: dict[str, list[int]] = {}
        for index, (_, name) in enumerate(decodes):
            rows.setdefault(name, []).append(index)
            last.setdefault(name, []).append(index)
        start = num_last = len(decodes)
        for prompt, name in prompts:
            end = start + len(prompt.token_ids)
            rows.setdefault(name, []).extend(range(start, end))
            if prompt.is_whole:
                last.setdefault(name, []).append(num_last)
                num_last += 1
            start = end
        if not rows.keys() - {""}:
            return None
        return cls(_tensors(rows, adapters), _tensors(last, adapters))

    def add_(
        self, product: torch.Tensor, inputs: torch.Tensor, layer: int, part: Part, *, last: bool = False
    ) -> None:
        """Add the updates of one product, in place. `last`: both have only the rows whose logits are wanted."""
        for adapter, rows in self.last if last else self.rows:
            for update in adapter.updates(layer, part):
                added = (inputs.index_select(0, rows) @ update.a.t()) @ update.b.t()
                product[:, update.start : update.end].index_add_(0, rows, added)


def _tensors(
    rows: Mapping[str, list[int]], adapters: Mapping[str, LoraAdapter]
) -> tuple[tuple[LoraAdapter, torch.Tensor], ...]:
    named = [(adapters[name], found) for name, found in sorted(rows.items()) if name]
    return tuple((adapter, torch.tensor(found, device=adapter.device)) for adapter, found in named)
