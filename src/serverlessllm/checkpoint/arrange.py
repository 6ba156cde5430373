# SPDX-License-Identifier: Apache-2.0
"""Where each tensor goes: shards in execution order, groups packed, everything else aligned.

Pure: takes names, dtypes and shapes, gives places. Knows no source format and reads no bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.records import Group, TensorEntry
from serverlessllm.errors import CheckpointFormatError

MAX_BIN_FILE_BYTES: Final = 64 << 30
"""A weights file is closed before it would grow beyond this; a shard is never split."""

_BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EMBED: Final = re.compile(r"embed|(?:^|\.)w[tp]e\.")
_GROUPS: Final = (
    ("qkv", ("q_proj.weight", "k_proj.weight", "v_proj.weight")),
    ("qkv_bias", ("q_proj.bias", "k_proj.bias", "v_proj.bias")),
    ("gate_up", ("gate_proj.weight", "up_proj.weight")),
    ("gate_up_bias", ("gate_proj.bias", "up_proj.bias")),
)
_EXECUTION: Final = (
    "embed_tokens.",
    "input_layernorm.",
    "q_proj.",
    "k_proj.",
    "v_proj.",
    "q_norm.",
    "k_norm.",
    "o_proj.",
    "post_attention_layernorm.",
    "gate_proj.",
    "up_proj.",
    "down_proj.",
    "norm.",
    "lm_head.",
)
"""Order inside a shard; a tensor that matches none comes after these, by name."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that wants a place. `dtype` is one of `spec.DTYPE_BYTES`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of its bytes."""
        return math.prod(self.shape) * spec.DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard's place: bytes [offset, offset + nbytes) of `file`."""

    id: str
    kind: str
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Every place, in file order; what the writer fills."""

    shards: tuple[PlannedShard, ...]
    tensors: tuple[TensorEntry, ...]
    groups: tuple[Group, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of tensors, without padding."""
        return sum(entry.nbytes for entry in self.tensors)


def arrange(tensors: Iterable[TensorSpec], *, max_file_bytes: int = MAX_BIN_FILE_BYTES) -> Arrangement:
    """Place every tensor. The result depends on the set of tensors, not on their order.

    Raises: CheckpointFormatError for duplicates, empty tensors, or none at all.
    """
    by_shard: dict[tuple[int, int], list[TensorSpec]] = {}
    for tensor in _checked(tensors):
        by_shard.setdefault(_shard_key(tensor.name), []).append(tensor)
    entries: list[TensorEntry] = []
    groups: list[Group] = []
    sizes: list[tuple[str, str, int]] = []
    for key in sorted(by_shard):
        kind = spec.SHARD_KINDS[key[0]]
        shard_id = f"block.{key[1]}" if kind == "block" else kind
        sizes.append((shard_id, kind, _place(shard_id, by_shard[key], entries, groups)))
    return Arrangement(tuple(_place_shards(sizes, max_file_bytes)), tuple(entries), tuple(groups))


def _checked(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise CheckpointFormatError(f"tensor {tensor.name!r} appears twice", param=tensor.name)
        if 0 in tensor.shape:
            raise CheckpointFormatError(
                f"tensor {tensor.name!r} of shape {list(tensor.shape)} is empty", param=tensor.name
            )
        found[tensor.name] = tensor
    if not found:
        raise CheckpointFormatError("the checkpoint has no tensors")
    return list(found.values())


def _shard_key(name: str) -> tuple[int, int]:
    """(rank of the kind, block number): sorts in execution order."""
    if match := _BLOCK.search(name):
        return 1, int(match[1])
    return (0, 0) if _EMBED.search(name) else (2, 0)


def _execution_key(name: str) -> tuple[int, str]:
    for rank, part in enumerate(_EXECUTION):
        if f".{part}" in f".{name}":
            return rank, name
    return len(_EXECUTION), name


def _place(
    shard_id: str, tensors: Sequence[TensorSpec], entries: list[TensorEntry], groups: list[Group]
) -> int:
    """Append the shard's entries and groups; returns its size."""
    end = 0
    for kind, members in _items(tensors):
        start = end = spec.align_up(end, spec.TENSOR_ALIGN_BYTES)
        for tensor in members:
            entry = TensorEntry(tensor.name, tensor.dtype, tensor.shape, shard_id, end, tensor.nbytes)
            entries.append(entry)
            end += tensor.nbytes
        if kind is not None:
            groups.append(Group(kind, tuple(t.name for t in members), shard_id, start, end - start))
    return end


def _items(tensors: Sequence[TensorSpec]) -> list[tuple[str | None, list[TensorSpec]]]:
    """Groups and single tensors, in execution order."""
    by_name = {tensor.name: tensor for tensor in tensors}
    items: list[tuple[str | None, list[TensorSpec]]] = []
    for name in sorted(by_name, key=_execution_key):
        if name not in by_name:
            continue  # went into the group of an earlier name
        kind, members = _group_of(name, by_name)
        items.append((kind, members))
        for member in members:
            del by_name[member.name]
    return items


def _group_of(name: str, by_name: dict[str, TensorSpec]) -> tuple[str | None, list[TensorSpec]]:
    """The group that starts with `name`, if all its members are there and fit; else the tensor alone."""
    for kind, suffixes in _GROUPS:
        prefix = name.removesuffix(suffixes[0])
        if prefix == name or not (prefix == "" or prefix.endswith(".")):
            continue
        members = [by_name[prefix + suffix] for suffix in suffixes if prefix + suffix in by_name]
        first = members[0]
        fits = all(m.shape and m.dtype == first.dtype and m.shape[1:] == first.shape[1:] for m in members)
        if len(members) == len(suffixes) and fits:
            return kind, members
    return None, [by_name[name]]


def _place_shards(sizes: Sequence[tuple[str, str, int]], max_file_bytes: int) -> list[PlannedShard]:
    placed: list[tuple[int, int]] = []
    number, end = 0, 0
    for _, _, nbytes in sizes:
        offset = spec.align_up(end, spec.SHARD_ALIGN_BYTES)
        if offset > 0 and offset + nbytes > max_file_bytes:
            number, offset = number + 1, 0
        placed.append((number, offset))
        end = offset + nbytes
    num_files = number + 1

    def name(number: int) -> str:
        return "model.bin" if num_files == 1 else f"model-{number + 1:05d}-of-{num_files:05d}.bin"

    return [
        PlannedShard(shard_id, kind, name(number), offset, nbytes)
        for (shard_id, kind, nbytes), (number, offset) in zip(sizes, placed, strict=True)
    ]
