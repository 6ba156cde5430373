# SPDX-License-Identifier: Apache-2.0
"""What must hold between the records of an index: order, places, groups, aliases, names.

Pure; each function checks one family of rules and raises CheckpointFormatError naming the field. Types and
bounds of single fields were checked by the records themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.records import Group, TensorEntry
from serverlessllm.checkpoint.strict_json import fail

if TYPE_CHECKING:
    from serverlessllm.checkpoint.index import CheckpointIndex


def check(index: CheckpointIndex) -> None:
    """Raise CheckpointFormatError for the first broken rule."""
    _unique(((f"shards[{i}].id", shard.id) for i, shard in enumerate(index.shards)), "shard")
    _unique(((f"tensors[{i}].name", entry.name) for i, entry in enumerate(index.tensors)), "tensor")
    _unique(((f"files[{i}].name", entry.name) for i, entry in enumerate(index.files)), "file")
    _check_shard_order(index)
    _check_shard_places(index)
    _check_files(index)
    _check_groups(index)
    _check_tensor_places(index)
    _check_aliases(index)


def _unique(named: Iterable[tuple[str, str]], what: str) -> None:
    seen: set[str] = set()
    for path, name in named:
        if name in seen:
            fail(path, f"{what} {name[:80]!r} appears twice")
        seen.add(name)


def _check_shard_order(index: CheckpointIndex) -> None:
    if not index.shards:
        fail("shards", "is empty")
    ranks = [spec.SHARD_KINDS.index(shard.kind) for shard in index.shards]
    for i, (before, after) in enumerate(zip(ranks, ranks[1:], strict=False), start=1):
        if after < before:
            fail(f"shards[{i}].kind", "out of execution order; embed comes first, then blocks, then final")
        if after == before and index.shards[i].kind != "block":
            fail(f"shards[{i}].kind", f"a second shard of kind {index.shards[i].kind}")


def _check_shard_places(index: CheckpointIndex) -> None:
    """Shards fill their files in order, each at the next 4 KiB border; a file is not returned to."""
    end, current, left = 0, "", set[str]()
    for i, shard in enumerate(index.shards):
        raw, path = shard.raw, f"shards[{i}].encodings[0]"
        if raw.file != current:
            if raw.file in left:
                fail(f"{path}.file", f"shards of {raw.file!r} are not adjacent")
            left.add(raw.file)
            end, current = 0, raw.file
        _check_place(raw.offset, end, spec.SHARD_ALIGN_BYTES, f"{path}.offset")
        end = raw.offset + raw.nbytes
        if end > spec.MAX_WEIGHTS_BYTES:
            fail(f"{path}.nbytes", f"{raw.file} would have {end} bytes; bound: {spec.MAX_WEIGHTS_BYTES}")


def _check_place(offset: int, end: int, alignment: int, path: str) -> None:
    expected = spec.align_up(end, alignment)
    if offset < end:
        fail(path, f"{offset} overlaps what ends at {end}")
    if offset % alignment:
        fail(path, f"{offset} is not a multiple of {alignment}")
    if offset != expected:
        fail(path, f"{offset} leaves a gap beyond minimal padding; expected {expected}")


def _check_files(index: CheckpointIndex) -> None:
    reserved = {shard.raw.file for shard in index.shards}
    if spec.INDEX_NAME in reserved:
        fail("shards", f"{spec.INDEX_NAME} cannot hold weights")
    reserved.add(spec.INDEX_NAME)
    for i, entry in enumerate(index.files):
        if entry.name in reserved:
            fail(f"files[{i}].name", f"{entry.name!r} is the name of a weights or index file")
    if all(entry.name != spec.CONFIG_NAME for entry in index.files):
        fail("files", f"{spec.CONFIG_NAME} is missing")


def _check_groups(index: CheckpointIndex) -> None:
    """Members follow each other in `tensors`, with equal dtype and row shape, and fill the group."""
    position = {entry.name: i for i, entry in enumerate(index.tensors)}
    last = -1
    for g, group in enumerate(index.groups):
        path = f"groups[{g}]"
        for name in group.members:
            if name not in position:
                fail(f"{path}.members", f"names a tensor that does not exist: {name[:80]!r}")
        first = position[group.members[0]]
        if first <= last:
            fail(f"{path}.members", "a tensor is in two groups, or groups are not in file order")
        if [position[name] for name in group.members] != list(range(first, first + len(group.members))):
            fail(f"{path}.members", "members are not adjacent and in order")
        last = first + len(group.members) - 1
        _check_group_shape(group, index.tensors[first : last + 1], path)


def _check_group_shape(group: Group, members: tuple[TensorEntry, ...], path: str) -> None:
    first = members[0]
    for entry in members:
        if entry.shard != group.shard:
            fail(f"{path}.shard", f"member {entry.name!r} is in shard {entry.shard!r}")
        if entry.dtype != first.dtype or not entry.shape or entry.shape[1:] != first.shape[1:]:
            fail(f"{path}.members", f"{entry.name!r} differs in dtype or row shape: no fused matrix")
    if group.offset != first.offset:
        fail(f"{path}.offset", f"{group.offset}, but its first member is at {first.offset}")
    nbytes = sum(entry.nbytes for entry in members)
    if group.nbytes != nbytes:
        fail(f"{path}.nbytes", f"{group.nbytes}, but its members have {nbytes}")


def _check_tensor_places(index: CheckpointIndex) -> None:
    """Tensors fill their shards in order; inside a group without padding, else at the next 64."""
    packed = {name for group in index.groups for name in group.members[1:]}
    order = {shard.id: i for i, shard in enumerate(index.shards)}
    current, end = -1, 0
    for i, entry in enumerate(index.tensors):
        if entry.shard not in order:
            fail(f"tensors[{i}].shard", f"shard {entry.shard[:80]!r} does not exist")
        if order[entry.shard] != current:
            _check_shard_filled(index, current, end)
            if order[entry.shard] != current + 1:
                fail(f"tensors[{i}].shard", "tensors are not in the order of their shards")
            current, end = current + 1, 0
        alignment = 1 if entry.name in packed else spec.TENSOR_ALIGN_BYTES
        _check_place(entry.offset, end, alignment, f"tensors[{i}].offset")
        end = entry.offset + entry.nbytes
        if end > index.shards[current].raw.nbytes:
            fail(f"tensors[{i}].nbytes", f"ends at {end}, past the end of shard {entry.shard!r}")
    _check_shard_filled(index, current, end)
    if current != len(index.shards) - 1:
        fail(f"shards[{current + 1}].id", "no tensor lies in this shard")


def _check_shard_filled(index: CheckpointIndex, position: int, end: int) -> None:
    if position >= 0 and index.shards[position].raw.nbytes != end:
        nbytes = index.shards[position].raw.nbytes
        fail(f"shards[{position}].encodings[0].nbytes", f"{nbytes}, but its last tensor ends at {end}")


def _check_aliases(index: CheckpointIndex) -> None:
    names = {entry.name for entry in index.tensors}
    for alias, target in index.aliases.items():
        path = f"aliases.{alias}"
        if alias in names:
            fail(path, "is the name of a tensor too")
        if target in names:
            continue
        seen = {alias}
        while target in index.aliases:
            if target in seen:
                fail(path, "is part of a cycle")
            seen.add(target)
            target = index.aliases[target]
        if target in names:
            fail(path, f"points to another alias; name the tensor {target[:80]!r} itself")
        fail(path, f"points to a tensor that does not exist: {target[:80]!r}")
