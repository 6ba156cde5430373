# SPDX-License-Identifier: Apache-2.0
"""Stop strings against a naive reference, under every way of cutting the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import InvalidRequestError
from serverlessllm.text.stop_strings import StopStrings


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The answer by definition: look at every prefix of the text, shortest first."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))], True
    return text, False


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces: list[str] = []
    while text:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@given(
    text=st.text("ab é", max_size=40),
    stops=st.lists(st.text("ab é", min_size=1, max_size=5), max_size=4),
    sizes=st.lists(st.integers(1, 7), min_size=1),
)
def test_any_chunking_shows_what_the_naive_reference_shows(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    stop_strings = StopStrings(stops)
    shown, stopped = "", False
    for piece in cut(text, sizes):
        emitted, stopped = stop_strings.push(piece)
        shown += emitted
    assert (shown + stop_strings.flush(), stopped) == naive(text, stops)


@given(text=st.text("ab", max_size=30), stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1))
def test_text_held_back_is_never_more_than_a_possible_stop(text: str, stops: list[str]) -> None:
    stop_strings = StopStrings(stops)
    shown = "".join(stop_strings.push(char)[0] for char in text)
    held = stop_strings.flush()
    assert any(stop.startswith(held) for stop in stops)
    assert naive(text, stops)[0] == shown + held


def test_stop_split_over_pushes_is_not_shown() -> None:
    stop_strings = StopStrings(["\nUser:"])
    pushes = [stop_strings.push(piece) for piece in ("Paris.", "\nUs", "er", ": more")]
    assert pushes == [("Paris.", False), ("", False), ("", False), ("", True)]


def test_prefix_that_does_not_complete_is_shown_later() -> None:
    stop_strings = StopStrings(["STOP"])
    assert stop_strings.push("a STO") == ("a ", False)
    assert stop_strings.push("RE") == ("STORE", False)


def test_push_after_the_stop_shows_nothing() -> None:
    stop_strings = StopStrings(["x"])
    assert stop_strings.push("axb") == ("a", True)
    assert stop_strings.push("more") == ("", True)
    assert stop_strings.flush() == ""


def test_no_stops_pass_everything_through() -> None:
    assert StopStrings([]).push("anything") == ("anything", False)


def test_empty_stop_is_refused_naming_the_field() -> None:
    with pytest.raises(InvalidRequestError, match="stop") as caught:
        StopStrings(["ok", ""])
    assert caught.value.param == "stop"
