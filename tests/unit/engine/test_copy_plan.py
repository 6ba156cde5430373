# SPDX-License-Identifier: Apache-2.0
"""Every rank gets its part: nothing twice, nothing missing, heads whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.engine.copy_plan import CopyRectangle, plan_copies, split_of
from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.wire.worker import TensorSlice

HEAD_DIM = 4


def tensor(name: str, *shape: int, offset: int = 0) -> TensorSlice:
    count = 1
    for size in shape:
        count *= size
    return TensorSlice(name, "bf16", shape, offset, 2 * count)


def only(name: str, *shape: int, rank: int, world_size: int) -> CopyRectangle:
    shards = plan_copies([tensor(name, *shape)], head_dim=HEAD_DIM, rank=rank, world_size=world_size)
    ((rectangle,),) = shards.values()
    return rectangle


def items(rectangle: CopyRectangle) -> set[tuple[int, int]]:
    return {(r, c) for r in range(*rectangle.rows) for c in range(*rectangle.columns)}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("model.embed_tokens.weight", "rows"),
        ("lm_head.weight", "rows"),
        ("model.layers.3.self_attn.q_proj.weight", "heads"),
        ("model.layers.3.self_attn.k_proj.bias", "kv_heads"),
        ("model.layers.3.self_attn.o_proj.weight", "columns"),
        ("model.layers.3.mlp.gate_proj.weight", "rows"),
        ("model.layers.3.mlp.down_proj.weight", "columns"),
        ("model.layers.3.input_layernorm.weight", "whole"),
        ("model.norm.weight", "whole"),
    ],
)
def test_tensors_are_split_as_megatron_does(name: str, split: str) -> None:
    assert split_of(name) == split


@given(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 5))
def test_ranks_together_have_every_item_once(world_size: int, heads: int, width: int) -> None:
    num_heads = heads * world_size
    for name, shape in (
        ("l.q_proj.weight", (num_heads * HEAD_DIM, width)),
        ("l.o_proj.weight", (width, num_heads * HEAD_DIM)),
        ("l.up_proj.weight", (num_heads, width)),
        ("l.q_proj.bias", (num_heads * HEAD_DIM,)),
    ):
        parts = [items(only(name, *shape, rank=r, world_size=world_size)) for r in range(world_size)]
        rows, columns = shape[0], shape[1] if len(shape) > 1 else 1
        assert sum(map(len, parts)) == rows * columns
        assert set().union(*parts) == {(r, c) for r in range(rows) for c in range(columns)}


def test_two_key_heads_are_shared_by_four_ranks_in_whole_heads() -> None:
    rows = [only("l.k_proj.weight", 2 * HEAD_DIM, 8, rank=r, world_size=4).rows for r in range(4)]
    assert rows == [(0, 4), (0, 4), (4, 8), (4, 8)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("l.q_proj.weight", (3 * HEAD_DIM, 8)), ("l.o_proj.weight", (8, 7)), ("l.k_proj.weight", (12, 8))],
)
def test_parts_that_do_not_divide_are_refused_naming_the_tensor(name: str, shape: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedCheckpointError, match="do not divide among 2 devices") as failure:
        only(name, *shape, rank=0, world_size=2)
    assert failure.value.param == name


def test_rectangle_knows_its_bytes() -> None:
    rows = only("l.up_proj.weight", 8, 6, rank=1, world_size=2)
    assert (rows.is_contiguous, rows.first_byte, rows.nbytes) == (True, 4 * 6 * 2, 4 * 6 * 2)
    columns = only("l.down_proj.weight", 8, 6, rank=1, world_size=2)
    assert (columns.is_contiguous, columns.first_byte, columns.target_shape) == (False, 3 * 2, (8, 3))


def test_shards_come_in_execution_order() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.a", "model.layers.0.b", "model.layers.1.a"]
    shards = plan_copies([tensor(name, 4, 4) for name in [*names, "model.norm.weight"]], head_dim=HEAD_DIM)
    assert list(shards) == ["embed", "block.0", "block.1", "final"]
    assert [r.name for r in shards["block.0"]] == ["model.layers.0.a", "model.layers.0.b"]


def test_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        plan_copies([], head_dim=HEAD_DIM, rank=2, world_size=2)
