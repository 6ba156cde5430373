# SPDX-License-Identifier: Apache-2.0
"""A GGUF file as a checkpoint: Hugging Face names and row order, quantised weights as float32.

Values equal `gguf.dequantize`; the converter rounds them once. Knows the llama, qwen2 and qwen3 architectures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from serverlessllm.checkpoint.spec import DTYPE_BYTES
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from serverlessllm.ingest.formats.base import SourceTensor
from serverlessllm.ingest.formats.gguf_config import GgufMetadata, build_config, build_generation_config
from serverlessllm.ingest.formats.gguf_header import GgufFile, GgufTensor, parse_gguf
from serverlessllm.ingest.formats.gguf_rows import PermutedRows, Rows
from serverlessllm.ingest.formats.gguf_tokenizer import build_tokenizer_files

ROPE_FACTORS: Final = "rope_freqs.weight"
_TOP: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK_NAME: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PLAIN: Final = {
    gguf.GGMLQuantizationType.F64: "f64",
    gguf.GGMLQuantizationType.F32: "f32",
    gguf.GGMLQuantizationType.F16: "f16",
    gguf.GGMLQuantizationType.BF16: "bf16",
}


class GgufSource:
    """Reads one GGUF file. `default_dtype`: bf16 if anything is quantised, else the float type of most bytes."""

    digest: str | None = None
    aliases: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        """Parse the header. Raises CheckpointFormatError, UnsupportedCheckpointError."""
        self._file: GgufFile = parse_gguf(path)
        if self._file.metadata.get("split.count", 1) not in (0, 1):
            raise UnsupportedCheckpointError(
                f"{path}: one part of a split GGUF; merge it with llama-gguf-split first", param="split.count"
            )
        self._meta = GgufMetadata(self._file.metadata)
        self._by_name = {
            _hf_name(tensor.name): tensor
            for tensor in self._file.tensors.values()
            if tensor.name != ROPE_FACTORS
        }
        self.default_dtype: str | None = self._default_dtype()

    @property
    def names(self) -> dict[str, str]:
        """Hugging Face name → name in the file."""
        return {name: tensor.name for name, tensor in self._by_name.items()}

    def config(self) -> dict[str, object]:
        """Rebuilt from the metadata."""
        embed = self._by_name.get("model.embed_tokens.weight")
        if embed is None:
            raise CheckpointFormatError("token_embd.weight is missing", param="token_embd.weight")
        factors = self._file.tensors.get(ROPE_FACTORS)
        return build_config(
            self._meta,
            vocab_size=embed.shape[0],
            has_bias="model.layers.0.self_attn.q_proj.bias" in self._by_name,
            is_tied="lm_head.weight" not in self._by_name,
            rope_factors=None if factors is None else self._all_values(factors),
        )

    def files(self) -> dict[str, bytes]:
        """Configuration and tokenizer files, rebuilt."""
        return {
            "config.json": json.dumps(self.config(), indent=2).encode(),
            "generation_config.json": json.dumps(build_generation_config(self._meta), indent=2).encode(),
            **build_tokenizer_files(self._meta),
        }

    def tensors(self) -> list[SourceTensor]:
        """All tensors; quantised ones as f32."""
        return [SourceTensor(name, _dtype(t), t.shape) for name, t in self._by_name.items()]

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """Read and dequantise the part; llama's q and k rows get their order back."""
        tensor = self._by_name[name]
        rows = self._rows(tensor)
        row_bytes = rows.num_items * DTYPE_BYTES[_dtype(tensor)]
        start, end = offset // row_bytes, -(-(offset + len(view)) // row_bytes)
        stored = rows.read(start, end)
        values = stored if tensor.type in _PLAIN else _dequantised(stored, tensor).view(np.uint8)
        skipped = offset - start * row_bytes
        np.frombuffer(view, np.uint8)[:] = values.reshape(-1)[skipped : skipped + len(view)]

    def _rows(self, tensor: GgufTensor) -> Rows:
        num_heads = self._num_permuted_heads(tensor.name)
        return (
            PermutedRows(self._file.path, tensor, num_heads) if num_heads else Rows(self._file.path, tensor)
        )

    def _all_values(self, tensor: GgufTensor) -> list[float]:
        rows = Rows(self._file.path, tensor)
        values: list[float] = _dequantised(rows.read(0, rows.num_rows), tensor).ravel().tolist()
        return values

    def _default_dtype(self) -> str | None:
        nbytes: dict[str, int] = {}
        for tensor in self._by_name.values():
            if tensor.type not in _PLAIN:
                return "bf16"
            nbytes[_dtype(tensor)] = nbytes.get(_dtype(tensor), 0) + tensor.nbytes
        return max(nbytes, key=lambda dtype: nbytes[dtype]) if nbytes else None

    def _num_permuted_heads(self, gguf_name: str) -> int:
        """Heads of a tensor whose rows llama.cpp permuted for interleaved rope; 0: it is stored as it is."""
        match = _BLOCK_NAME.fullmatch(gguf_name)
        if self._meta.architecture != "llama" or match is None or match[2] not in ("attn_q", "attn_k"):
            return 0
        num_heads = self._meta.integer("llama.attention.head_count")
        if match[2] == "attn_q":
            return num_heads
        return self._meta.integer("llama.attention.head_count_kv", num_heads)


def _dtype(tensor: GgufTensor) -> str:
    return _PLAIN.get(gguf.GGMLQuantizationType(tensor.type), "f32")


def _dequantised(rows: npt.NDArray[np.uint8], tensor: GgufTensor) -> npt.NDArray[np.float32]:
    """Rows of whole blocks as float32."""
    try:
        values = gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.type))
    except NotImplementedError as error:
        raise UnsupportedCheckpointError(f"tensor {tensor.name!r}: {error}", param=tensor.name) from error
    return np.ascontiguousarray(values, np.float32)


def _hf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    match = _BLOCK_NAME.fullmatch(name)
    if match is None or match[2] not in _IN_BLOCK:
        raise UnsupportedCheckpointError(
            f"tensor {name[:80]!r} is not part of a llama, qwen2 or qwen3 model", param=name[:80]
        )
    return f"model.layers.{int(match[1])}.{_IN_BLOCK[match[2]]}.{match[3]}"
