# SPDX-License-Identifier: Apache-2.0
"""Where tensors go: shards in execution order, fused groups, alignment, several files."""

from __future__ import annotations

import pytest

from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.errors import CheckpointFormatError
from support.tiny_checkpoints import SHAPES

SPECS = [TensorSpec(name, "f32", shape) for name, shape in SHAPES.items()]


def test_shards_follow_execution_order_on_4_kib_borders() -> None:
    shards = arrange(reversed(SPECS)).shards
    assert [(s.id, s.kind, s.offset) for s in shards] == [
        ("embed", "embed", 0),
        ("block.0", "block", 4096),
        ("final", "final", 8192),
    ]


def test_groups_are_packed_and_start_at_multiples_of_64() -> None:
    arrangement = arrange(SPECS)
    offsets = {entry.name.removeprefix("model.layers.0."): entry.offset for entry in arrangement.tensors}
    assert [(g.kind, g.nbytes) for g in arrangement.groups] == [
        ("qkv_bias", 32),
        ("qkv", 128),
        ("gate_up", 96),
    ]
    assert all(group.offset % 64 == 0 for group in arrangement.groups)
    q = offsets["self_attn.q_proj.weight"]
    assert (offsets["self_attn.k_proj.weight"], offsets["self_attn.v_proj.weight"]) == (q + 64, q + 96)


def test_order_of_the_source_does_not_matter() -> None:
    assert arrange(SPECS) == arrange(reversed(SPECS))


def test_blocks_sort_by_number_not_by_text() -> None:
    specs = [TensorSpec(f"h.{i}.ln.weight", "f32", (1,)) for i in (10, 9, 2)]
    assert [shard.id for shard in arrange(specs).shards] == ["block.2", "block.9", "block.10"]


def test_members_of_different_dtype_are_not_grouped() -> None:
    specs = [
        TensorSpec("model.layers.0.mlp.gate_proj.weight", "f32", (2, 2)),
        TensorSpec("model.layers.0.mlp.up_proj.weight", "bf16", (2, 2)),
    ]
    assert arrange(specs).groups == ()


def test_every_expert_of_a_mixture_has_its_own_group() -> None:
    names = [
        f"model.layers.0.mlp.experts.{e}.{p}_proj.weight" for e in range(2) for p in ("gate", "up", "down")
    ]
    groups = arrange(TensorSpec(name, "f32", (2, 2)) for name in names).groups
    assert [group.members[0] for group in groups] == [names[0], names[3]]


def test_unknown_architectures_land_in_embed_block_and_final() -> None:
    names = ["wte.weight", "transformer.h.0.attn.c_attn.weight", "ln_f.weight"]
    arrangement = arrange(TensorSpec(name, "f32", (2, 2)) for name in names)
    assert {e.name: e.shard for e in arrangement.tensors} == dict(
        zip(names, ("embed", "block.0", "final"), strict=True)
    )


def test_big_models_use_several_files_and_never_split_a_shard() -> None:
    shards = arrange(SPECS, max_file_bytes=4200).shards
    assert [(s.file, s.offset) for s in shards] == [
        ("model-00001-of-00002.bin", 0),
        ("model-00002-of-00002.bin", 0),
        ("model-00002-of-00002.bin", 4096),
    ]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([], "no tensors"),
        ([SPECS[0], SPECS[0]], "appears twice"),
        ([TensorSpec("a", "f32", (0, 4))], "is empty"),
    ],
)
def test_impossible_sets_are_refused(specs: list[TensorSpec], says: str) -> None:
    with pytest.raises(CheckpointFormatError, match=says):
        arrange(specs)
