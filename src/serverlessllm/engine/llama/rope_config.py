# SPDX-License-Identifier: Apache-2.0
"""How positions are rotated, parsed from `config.json` in the layouts of transformers 4 and 5. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serverlessllm.engine.llama.architecture_fields import Architecture, integer, number, unsupported


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base, and how its frequencies are stretched. `kind` default uses `theta` only."""

    kind: Literal["default", "linear", "llama3"]
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192

    @classmethod
    def parse(cls, architecture: Architecture, max_position_tokens: int) -> RopeConfig:
        """From `rope_parameters`, else `rope_scaling` and `rope_theta`. Raises: UnsupportedCheckpointError."""
        key = "rope_parameters" if architecture.get("rope_parameters") else "rope_scaling"
        scaling = architecture.get(key) or {}
        if not isinstance(scaling, Mapping):
            raise unsupported(key, "expected a mapping")
        theta = number(scaling, "rope_theta", number(architecture, "rope_theta", 10000.0))
        if scaling.get("partial_rotary_factor", 1.0) != 1.0:
            raise unsupported(f"{key}.partial_rotary_factor", "only whole heads are rotated here")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return cls("default", theta)
        if kind not in ("linear", "llama3"):
            raise unsupported(
                f"{key}.rope_type", f"{kind!r} is not implemented; default, linear and llama3 are"
            )
        factor = number(scaling, "factor")
        if kind == "linear":
            return cls("linear", theta, factor)
        low, high = number(scaling, "low_freq_factor"), number(scaling, "high_freq_factor")
        if low >= high:
            raise unsupported(f"{key}.high_freq_factor", f"{high} must exceed low_freq_factor {low}")
        original = integer(scaling, "original_max_position_embeddings", max_position_tokens)
        return cls("llama3", theta, factor, low, high, original)
