# SPDX-License-Identifier: Apache-2.0
"""A LoRA adapter as PEFT saves it: `adapter_config.json` beside `adapter_model.safetensors`.

Becomes a small artifact whose `config.json` says what the engine needs of the adapter's own config. What changes the
computation and is not followed is refused by the key that asks for it. Knows no base model.
Source: PEFT's `LoraConfig` (Hugging Face); Hu et al., "LoRA", 2021.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.reader import parse_config
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor
from serverlessllm.ingest.formats.safetensors import SafetensorsFile
from serverlessllm.types import ADAPTER_MODEL_TYPE

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_ONLY_VALUES: Final[dict[str, tuple[object, ...]]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "use_qalora": (False, None),
    "target_parameters": (None, []),
}
"""Keys that change the computation, with the values under which it is plain LoRA."""


class PeftSource:
    """One adapter's directory."""

    default_dtype: str | None = None
    digest: str | None = None
    aliases: Mapping[str, str] = {}

    def __init__(self, directory: Path) -> None:
        """Raises: UnsupportedCheckpointError naming the key; CheckpointFormatError; CorruptDataError."""
        self._config = _checked((directory / ADAPTER_CONFIG).read_bytes())
        if not (directory / ADAPTER_WEIGHTS).is_file():
            raise UnsupportedCheckpointError(
                f"{directory}: an adapter needs {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG}", param="source"
            )
        self._file = SafetensorsFile(directory / ADAPTER_WEIGHTS)
        self._tensors = [
            replace(tensor, name=tensor.name.removeprefix(_PREFIX)) for tensor in self._file.tensors()
        ]
        self._stored = {tensor.name.removeprefix(_PREFIX): tensor.name for tensor in self._file.tensors()}

    def config(self) -> dict[str, object]:
        """What an engine needs to know: `scale` is what the product of both matrices is multiplied with."""
        return dict(self._config)

    def files(self) -> dict[str, bytes]:
        """The config alone: the base model has the tokenizer."""
        return {spec.CONFIG_NAME: json.dumps(self._config, sort_keys=True).encode()}

    def tensors(self) -> list[SourceTensor]:
        """Named as in the base model, without PEFT's wrapper."""
        return self._tensors

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """From the one file."""
        self._file.read_into(self._stored[name], view, offset)


def _checked(data: bytes) -> dict[str, object]:
    if len(data) > spec.MAX_FILE_BYTES:
        raise CheckpointFormatError(f"{ADAPTER_CONFIG}: too large", param=ADAPTER_CONFIG)
    config = parse_config(data)
    for key, allowed in _ONLY_VALUES.items():
        if key in config and config[key] not in allowed:
            raise UnsupportedCheckpointError(
                f"{ADAPTER_CONFIG}: {key}: {config[key]!r:.80} is not implemented; plain LoRA is", param=key
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise CheckpointFormatError(f"{ADAPTER_CONFIG}: r: {rank!r} is no rank", param="r")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise CheckpointFormatError(
            f"{ADAPTER_CONFIG}: lora_alpha: {alpha!r} is no number", param="lora_alpha"
        )
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return {"model_type": ADAPTER_MODEL_TYPE, "r": rank, "scale": scale}
