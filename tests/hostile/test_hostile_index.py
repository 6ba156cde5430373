# SPDX-License-Identifier: Apache-2.0
"""Lying `model.idx` files: each broken rule is its own error that names the field, and nothing else escapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.index import CheckpointIndex
from serverlessllm.checkpoint.strict_json import dumps_canonical
from serverlessllm.errors import CheckpointError, CheckpointFormatError, UnsupportedCheckpointError

GOLDEN = (Path(__file__).parents[1] / "unit/checkpoint/golden/model.idx").read_bytes()
Tree = dict[str, Any]
Change = Callable[[Tree], object]

_Q, _K = 5, 6  # positions in `tensors`: embed, norm, three biases, q, k, v, gate, up, final norm
CASES: dict[str, tuple[Change, str, str]] = {
    "magic": (lambda t: t.update(format="gguf"), "format", "not 'sllm-checkpoint'"),
    "no magic": (lambda t: t.pop("format"), "format", "is missing"),
    "version zero": (lambda t: t.update(version=0), "version", "out of range"),
    "version text": (lambda t: t.update(version="1"), "version", "expected an integer"),
    "digest form": (lambda t: t.update(source_digest="xyz"), "source_digest", "form"),
    "missing tensors": (lambda t: t.pop("tensors"), "tensors", "is missing"),
    "tensors object": (lambda t: t.update(tensors={}), "tensors", "expected a list"),
    "tensor not object": (lambda t: t["tensors"].append(3), "tensors[11]", "expected an object"),
    "no shards": (lambda t: t.update(shards=[], tensors=[], groups=[]), "shards", "is empty"),
    "duplicate tensor": (
        lambda t: t["tensors"][_K].update(name=t["tensors"][_Q]["name"]),
        "tensors[6].name",
        "appears twice",
    ),
    "empty name": (lambda t: t["tensors"][0].update(name=""), "tensors[0].name", "is empty"),
    "long name": (lambda t: t["tensors"][0].update(name="n" * 513), "tensors[0].name", "longer than"),
    "unknown dtype": (lambda t: t["tensors"][0].update(dtype="f7"), "tensors[0].dtype", "unknown dtype"),
    "shape and size": (lambda t: t["tensors"][0].update(nbytes=97), "tensors[0].nbytes", "has 96 bytes"),
    "zero dimension": (lambda t: t["tensors"][0].update(shape=[0, 4]), "tensors[0].shape[0]", "out of range"),
    "negative dimension": (
        lambda t: t["tensors"][0].update(shape=[-6, -4]),
        "tensors[0].shape[0]",
        "out of range",
    ),
    "absurd dimension": (
        lambda t: t["tensors"][0].update(shape=[1 << 62]),
        "tensors[0].shape[0]",
        "out of range",
    ),
    "absurd rank": (lambda t: t["tensors"][0].update(shape=[1] * 9), "tensors[0].shape", "exceed the bound"),
    "float offset": (
        lambda t: t["tensors"][0].update(offset=0.0),
        "tensors[0].offset",
        "expected an integer",
    ),
    "bool offset": (
        lambda t: t["tensors"][0].update(offset=False),
        "tensors[0].offset",
        "expected an integer",
    ),
    "negative offset": (lambda t: t["tensors"][0].update(offset=-64), "tensors[0].offset", "out of range"),
    "tensor gap": (lambda t: t["tensors"][0].update(offset=64), "tensors[0].offset", "gap beyond minimal"),
    "misaligned": (lambda t: t["tensors"][0].update(offset=4), "tensors[0].offset", "not a multiple of 64"),
    "unknown shard": (lambda t: t["tensors"][0].update(shard="x"), "tensors[0].shard", "does not exist"),
    "tensor order": (lambda t: t["tensors"].reverse(), "groups[0].members", "not adjacent and in order"),
    "shard order of tensors": (
        lambda t: t["tensors"].insert(0, t["tensors"].pop()),
        "tensors[0].shard",
        "not in the order of their shards",
    ),
    "past the end": (
        lambda t: t["shards"][2]["encodings"][0].update(nbytes=15),
        "tensors[10].nbytes",
        "past the end of shard 'final'",
    ),
    "unclaimed bytes": (
        lambda t: t["shards"][2]["encodings"][0].update(nbytes=17),
        "shards[2].encodings[0].nbytes",
        "its last tensor ends at 16",
    ),
    "empty shard": (lambda t: t["tensors"].pop(), "shards[2].id", "no tensor lies"),
    "duplicate shard": (lambda t: t["shards"][1].update(id="embed"), "shards[1].id", "appears twice"),
    "shard kind": (lambda t: t["shards"][0].update(kind="head"), "shards[0].kind", "unknown shard kind"),
    "kind order": (lambda t: t["shards"][0].update(kind="final"), "shards[1].kind", "execution order"),
    "second final": (lambda t: t["shards"][1].update(kind="final"), "shards[2].kind", "a second shard"),
    "no encoding": (lambda t: t["shards"][0].update(encodings=[]), "shards[0].encodings", "is empty"),
    "shard overlap": (
        lambda t: t["shards"][1]["encodings"][0].update(offset=0),
        "shards[1].encodings[0].offset",
        "overlaps",
    ),
    "shard gap": (
        lambda t: t["shards"][1]["encodings"][0].update(offset=8192),
        "shards[1].encodings[0].offset",
        "gap beyond minimal",
    ),
    "shard misaligned": (
        lambda t: t["shards"][1]["encodings"][0].update(offset=4160),
        "shards[1].encodings[0].offset",
        "not a multiple of 4096",
    ),
    "absurd shard": (
        lambda t: t["shards"][0]["encodings"][0].update(nbytes=1 << 60),
        "shards[0].encodings[0].nbytes",
        "out of range",
    ),
    "chunk count": (
        lambda t: t["shards"][0]["encodings"][0].update(chunk_digests=[]),
        "shards[0].encodings[0].chunk_digests",
        "0 digests for 1 chunks",
    ),
    "path-like weights": (
        lambda t: t["shards"][0]["encodings"][0].update(file="../model.bin"),
        "shards[0].encodings[0].file",
        "does not have the form",
    ),
    "weights in the index": (
        lambda t: [s["encodings"][0].update(file="model.idx") for s in t["shards"]],
        "shards",
        "cannot hold weights",
    ),
    "files revisited": (
        lambda t: t["shards"][1]["encodings"][0].update(file="other.bin", offset=0),
        "shards[2].encodings[0].file",
        "not adjacent",
    ),
    "path-like file": (lambda t: t["files"][0].update(name="/etc/passwd"), "files[0].name", "form"),
    "hidden file": (lambda t: t["files"][0].update(name=".bashrc"), "files[0].name", "form"),
    "file is weights": (
        lambda t: t["files"].append({**t["files"][0], "name": "model.bin"}),
        "files[1].name",
        "name of a weights",
    ),
    "file twice": (lambda t: t["files"].append(t["files"][0]), "files[1].name", "appears twice"),
    "no config": (lambda t: t.update(files=[]), "files", "config.json is missing"),
    "absurd file": (lambda t: t["files"][0].update(nbytes=1 << 40), "files[0].nbytes", "out of range"),
    "group kind": (lambda t: t["groups"][0].update(kind="kv"), "groups[0].kind", "unknown group kind"),
    "group member count": (lambda t: t["groups"][0]["members"].pop(), "groups[0].members", "3 members"),
    "group of strangers": (
        lambda t: t["groups"][2]["members"].__setitem__(1, "ghost"),
        "groups[2].members",
        "does not exist",
    ),
    "group not adjacent": (
        lambda t: t["groups"][1]["members"].reverse(),
        "groups[1].members",
        "not adjacent and in order",
    ),
    "group twice": (lambda t: t["groups"].append(t["groups"][2]), "groups[3].members", "in two groups"),
    "group offset": (lambda t: t["groups"][1].update(offset=192), "groups[1].offset", "first member is at"),
    "group size": (lambda t: t["groups"][1].update(nbytes=64), "groups[1].nbytes", "its members have 128"),
    "group shard": (lambda t: t["groups"][1].update(shard="embed"), "groups[1].shard", "is in shard"),
    "alias of nothing": (lambda t: t["aliases"].update(a="ghost"), "aliases.a", "does not exist"),
    "alias over a tensor": (
        lambda t: t["aliases"].update({"model.norm.weight": "model.embed_tokens.weight"}),
        "aliases.model.norm.weight",
        "name of a tensor",
    ),
    "alias cycle": (lambda t: t["aliases"].update(a="b", b="a"), "aliases.a", "cycle"),
    "alias chain": (lambda t: t["aliases"].update(a="lm_head.weight"), "aliases.a", "another alias"),
    "alias number": (lambda t: t["aliases"].update(a=1), "aliases.a", "expected a string"),
    "aliases list": (lambda t: t.update(aliases=[]), "aliases", "expected an object"),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_rule_is_an_error_that_names_the_field(case: str) -> None:
    change, param, says = CASES[case]
    tree = json.loads(GOLDEN)
    change(tree)
    with pytest.raises(CheckpointFormatError) as caught:
        CheckpointIndex.parse(dumps_canonical(tree))
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "param"),
    [
        (b'"version":1', b'"version":2', "version"),
        (b'"required_features":[]', b'"required_features":["x"]', "required_features"),
        (b'"codec":"raw"', b'"codec":"zstd"', "shards[0].encodings[0].codec"),
    ],
)
def test_newer_artifacts_are_unsupported_not_malformed(old: bytes, new: bytes, param: str) -> None:
    with pytest.raises(UnsupportedCheckpointError) as caught:
        CheckpointIndex.parse(GOLDEN.replace(old, new))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"version":1', b'"version":1,"version":1', "appears twice"),
        (b'"version":1', b'"version":1e400', "non-finite"),
        (b'"version":1', b'"version":NaN', "non-finite"),
        (b'"version":1', b'"version":1' + b"0" * 5000, "absurd number"),
        (b'"version":1', b'"version":1,"z":"\\ud800"', "canonical"),
        (b'"version":1', b'"version":1,"z":' + b"[" * 50_000 + b"]" * 50_000, "not valid JSON|canonical"),
        (b'"shape":[6,4]', b'"shape":[6, 4]', "not canonical"),
    ],
)
def test_documents_that_json_alone_would_accept_are_refused(old: bytes, new: bytes, says: str) -> None:
    with pytest.raises(CheckpointFormatError, match=says):
        CheckpointIndex.parse(GOLDEN.replace(old, new))


def test_index_beyond_the_length_bound_is_not_even_parsed() -> None:
    with pytest.raises(CheckpointFormatError, match="exceed the bound"):
        CheckpointIndex.parse(GOLDEN + b" " * spec.MAX_INDEX_BYTES)


def _parse_or_checkpoint_error(data: bytes) -> None:
    """Anything but success or a CheckpointError fails the test."""
    try:
        index = CheckpointIndex.parse(data)
    except CheckpointError:
        return
    assert index.to_bytes() == data


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOLDEN)), st.binary(max_size=8), st.integers(0, 8))
def test_mutated_bytes_give_a_checkpoint_error_or_an_honest_index(at: int, put: bytes, cut: int) -> None:
    _parse_or_checkpoint_error(GOLDEN[:at] + put + GOLDEN[at + cut :])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOLDEN) - 1))
def test_truncated_bytes_give_a_checkpoint_error(at: int) -> None:
    with pytest.raises(CheckpointError):
        CheckpointIndex.parse(GOLDEN[:at])


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _spots(tree: object) -> list[tuple[Any, Any]]:
    """Every (container, key) of the tree."""
    if isinstance(tree, dict):
        own: list[tuple[Any, Any]] = [(tree, key) for key in tree]
        return own + [spot for value in tree.values() for spot in _spots(value)]
    if isinstance(tree, list):
        own = [(tree, i) for i in range(len(tree))]
        return own + [spot for value in tree for spot in _spots(value)]
    return []


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_field_replaced_by_any_json_gives_a_checkpoint_error_or_an_honest_index(
    data: st.DataObject,
) -> None:
    tree = json.loads(GOLDEN)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(_spots(tree)))
        container[key] = data.draw(_JSON)
    _parse_or_checkpoint_error(
        json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    )
