# SPDX-License-Identifier: Apache-2.0
"""Which rectangles of which tensors a rank copies to its device, shard by shard. Pure: numbers only, no torch.

With tensor parallelism a rank holds a part of most matrices: some rows (a column-parallel layer: q, k, v, gate, up,
the embedding, the head) or some columns (a row-parallel one: o, down). So the unit of copying is (tensor, row range,
column range): rows that are wholly taken are one run of bytes, columns are a strided copy.
Source: Megatron-LM (Shoeybi et al., 2019), section 3, for how layers are split; ours splits the vocabulary too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.wire.worker import TensorSlice

Split = Literal["heads", "kv_heads", "rows", "columns", "whole"]
"""heads, kv_heads: rows in whole heads; a key or value head that fewer ranks than heads must share is on each of
them · rows, columns: in equal parts · whole: on every rank."""

_SPLITS: Final[tuple[tuple[re.Pattern[str], Split], ...]] = (
    (re.compile(r"\.q_proj\.(weight|bias)$"), "heads"),
    (re.compile(r"\.[kv]_proj\.(weight|bias)$"), "kv_heads"),
    (re.compile(r"\.(gate|up)_proj\.(weight|bias)$"), "rows"),
    (re.compile(r"(^|\.)(embed_tokens|lm_head)\.weight$"), "rows"),
    (re.compile(r"\.(o|down)_proj\.weight$"), "columns"),
)
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class CopyRectangle:
    """`rows` × `columns` (half-open ranges) of one tensor, seen as a matrix (num_rows, row_nbytes / item_nbytes).

    `source_offset` is where the tensor starts in the region. A tensor of one dimension has rows of one item; of more
    than two, its later dimensions together are the columns.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source_offset: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    num_columns: int
    item_nbytes: int

    @property
    def is_contiguous(self) -> bool:
        """Whether the rectangle is one run of bytes in the region."""
        return self.columns == (0, self.num_columns) or self.rows[1] - self.rows[0] == 1

    @property
    def nbytes(self) -> int:
        """Bytes that are copied."""
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0]) * self.item_nbytes

    @property
    def first_byte(self) -> int:
        """Where in the region the rectangle's first item lies."""
        index = self.rows[0] * self.num_columns + self.columns[0]
        return self.source_offset + index * self.item_nbytes

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The rank's tensor."""
        height, width = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        if len(self.shape) < 2:
            return (height,) if self.shape else ()
        if width == self.num_columns:
            return (height, *self.shape[1:])
        return (height, width)


def split_of(name: str) -> Split:
    """How a tensor of this name is divided among the ranks; norms and what is unknown are whole on each."""
    return next((split for pattern, split in _SPLITS if pattern.search(name)), "whole")


def shard_of(name: str) -> str:
    """What is copied, and waited for, together: `embed`, `block.<i>`, `final`."""
    layer = _LAYER.search(name)
    if layer is not None:
        return f"block.{layer[1]}"
    return "embed" if "embed_tokens" in name else "final"


def plan_copies(
    tensors: Sequence[TensorSlice], *, head_dim: int, rank: int = 0, world_size: int = 1
) -> dict[str, list[CopyRectangle]]:
    """Shard → its rectangles, in execution order, which is the order of `tensors`.

    Ensures: over all ranks every item is copied; of heads, rows and columns exactly once.
    Raises: UnsupportedCheckpointError for a dimension that the ranks cannot share evenly; ValueError for a rank
    outside the world.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size}")
    shards: dict[str, list[CopyRectangle]] = {}
    for tensor in tensors:
        rectangle = _rectangle(tensor, _Share(rank, world_size, head_dim))
        shards.setdefault(shard_of(tensor.name), []).append(rectangle)
    return shards


@dataclass(frozen=True, slots=True)
class _Share:
    """One rank's part of everything."""

    rank: int
    world_size: int
    head_dim: int

    def rows(self, split: Split, num_rows: int, name: str) -> tuple[int, int]:
        if split == "rows":
            return self._even(num_rows, 1, name)
        if split == "heads":
            return self._even(num_rows, self.head_dim, name)
        if split == "kv_heads":
            num_heads = num_rows // self.head_dim
            if num_heads < self.world_size and self.world_size % max(1, num_heads) == 0:
                head = self.rank * num_heads // self.world_size
                return head * self.head_dim, (head + 1) * self.head_dim
            return self._even(num_rows, self.head_dim, name)
        return 0, num_rows

    def columns(self, split: Split, num_columns: int, name: str) -> tuple[int, int]:
        return self._even(num_columns, 1, name) if split == "columns" else (0, num_columns)

    def _even(self, length: int, unit: int, name: str) -> tuple[int, int]:
        if length % (unit * self.world_size):
            raise UnsupportedCheckpointError(
                f"{name}: {length // unit} parts do not divide among {self.world_size} devices; use a divisor",
                param=name,
                source="engine",
            )
        step = length // self.world_size
        return self.rank * step, (self.rank + 1) * step


def _rectangle(tensor: TensorSlice, share: _Share) -> CopyRectangle:
    num_rows = tensor.shape[0] if tensor.shape else 1
    num_columns = math.prod(tensor.shape[1:])
    split = split_of(tensor.name)
    return CopyRectangle(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        source_offset=tensor.offset,
        rows=share.rows(split, num_rows, tensor.name),
        columns=share.columns(split, num_columns, tensor.name),
        num_columns=num_columns,
        item_nbytes=tensor.nbytes // max(1, num_rows * num_columns),
    )
