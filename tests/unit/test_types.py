# SPDX-License-Identifier: Apache-2.0
"""Names of models: what a user may call them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import InvalidRequestError
from serverlessllm.types import check_model_name, is_revision, mint_id


@pytest.mark.parametrize("name", ["a", "smollm2-135m", "org/Model_1.5", "a/b/c", "0x", "m" * 200])
def test_valid_names_pass(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "../x",
        "a/../b",
        ".hidden",
        "-x",
        "a b",
        "a\n",
        "a:",
        ":b",
        "a:b:c",
        "a:b/c",
        "ü",
        "m" * 201,
        None,
        7,
        "a\x00",
    ],
)
def test_bad_names_are_refused_by_field(name: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_model_name(name, param="model")
    assert caught.value.param == "model"


@given(st.text())
def test_a_name_that_passes_is_a_safe_relative_path(text: str) -> None:
    try:
        name = check_model_name(text)
    except InvalidRequestError:
        return
    assert ".." not in name.split("/")
    assert not name.startswith("/")
    assert "\x00" not in name


def test_revisions_are_32_hex_digits() -> None:
    assert is_revision("0123456789abcdef" * 2)
    assert not is_revision("0123456789ABCDEF" * 2)
    assert not is_revision("0123456789abcdef")
    assert not is_revision("0" * 32 + "\n")


def test_minted_ids_differ() -> None:
    assert mint_id("chatcmpl").startswith("chatcmpl-")
    assert len({mint_id("x") for _ in range(1000)}) == 1000
