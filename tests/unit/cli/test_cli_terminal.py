# SPDX-License-Identifier: Apache-2.0
"""What reaches a terminal: nothing that it would obey, and tables that a pipe can cut."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.cli.terminal import (
    one_line,
    print_error,
    print_fields,
    print_json,
    print_table,
    strip_control,
)


@given(st.text())
def test_no_control_character_but_newline_and_tab_survives(text: str) -> None:
    assert {c for c in strip_control(text) if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=["Cc"])))
def test_text_without_control_characters_is_untouched(text: str) -> None:
    assert strip_control(text) == text


def test_escape_sequences_lose_their_escape() -> None:
    assert strip_control("\x1b]0;owned\x07\x1b[2Jhi\x9b31m\r") == "]0;owned[2Jhi31m"


def test_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("first\nsecond\x1b[31m")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "sllm: first second[31m\n")
    assert one_line(" a\t\nb ") == "a b"


def test_table_in_a_pipe_is_aligned_and_never_truncated(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "SIZE"), [("m" * 300, "1"), ("b", "20")], empty="none", right=("SIZE",))
    head, long, short = capsys.readouterr().out.splitlines()
    assert long == "m" * 300 + "     1"
    assert head.endswith("  SIZE") and short.endswith("    20")


def test_table_without_rows_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [], empty="no models; add one")
    assert capsys.readouterr().out == "no models; add one\n"


def test_fields_without_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("name", "m"), ("error", ""), ("revision", "\x1babc")])
    assert capsys.readouterr().out == "name      m\nrevision  abc\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, "ü"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, "ü"]}
