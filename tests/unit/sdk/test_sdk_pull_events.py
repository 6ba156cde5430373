# SPDX-License-Identifier: Apache-2.0
"""The events of a pull, read line by line."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.errors import CapacityError, UnreachableError, WireError
from serverlessllm.sdk.pull_events import PullEvents
from serverlessllm.wire.admin import ModelView

VIEW = ModelView(
    name="m",
    source="hf://o/m",
    engine="torch",
    dtype=None,
    state="remote",
    revision=None,
    nbytes=0,
    created_s=0.0,
    keep_alive_s=1.0,
    options={},
)


def test_views_are_given_and_other_lines_are_not() -> None:
    events = PullEvents()
    assert events.feed(f"data: {msgspec.json.encode(VIEW).decode()}") == VIEW
    assert [events.feed(line) for line in ("", "id: 1", ": comment", "data: [DONE]")] == [None] * 4
    events.end()


def test_error_event_is_raised_as_its_kind() -> None:
    error = CapacityError("full").as_openai()
    with pytest.raises(CapacityError, match="full"):
        PullEvents().feed(f"data: {msgspec.json.encode(error).decode()}")


def test_stream_that_was_cut_and_one_that_is_not_ours_are_errors() -> None:
    with pytest.raises(UnreachableError, match="pull again"):
        PullEvents().end()
    with pytest.raises(WireError):
        PullEvents().feed("data: {}")
