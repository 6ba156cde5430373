# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON out, only honest JSON in."""

from __future__ import annotations

import pytest

from serverlessllm.checkpoint.strict_json import Fields, dumps_canonical, loads_strict
from serverlessllm.errors import CheckpointFormatError


def test_canonical_form_sorts_keys_and_keeps_unicode() -> None:
    assert dumps_canonical({"b": [1, 2], "a": "é\n"}) == '{"a":"é\\n","b":[1,2]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_values_without_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(CheckpointFormatError):
        dumps_canonical({"a": value})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":1,"a":2}', "appears twice"),
        (b'{"a":NaN}', "non-finite"),
        (b'{"a":-Infinity}', "non-finite"),
        (b'{"a":1e999}', "non-finite"),
        (b'{"a":' + b"9" * 5000 + b"}", "absurd number"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_hostile_documents_are_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(CheckpointFormatError, match=says):
        loads_strict(data, what="model.idx")


@pytest.mark.parametrize(
    ("value", "param", "says"),
    [
        ({"size": True}, "tensors[3].size", "expected an integer"),
        ({"size": 1.0}, "tensors[3].size", "expected an integer"),
        ({"size": 10}, "tensors[3].size", "out of range"),
        ({}, "tensors[3].size", "is missing"),
        ([], "tensors[3]", "expected an object"),
    ],
)
def test_wrong_values_name_the_full_path_of_the_field(value: object, param: str, says: str) -> None:
    with pytest.raises(CheckpointFormatError, match=says) as caught:
        Fields(value, "tensors[3]").integer("size", low=0, high=9)
    assert caught.value.param == param
