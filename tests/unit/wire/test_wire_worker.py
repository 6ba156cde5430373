# SPDX-License-Identifier: Apache-2.0
"""Frames between agent and worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import WireError
from serverlessllm.wire.worker import (
    Cancel,
    Failed,
    FrameSplitter,
    FromWorker,
    Hello,
    TokenEvent,
    Tokens,
    decode_from_worker,
    decode_to_worker,
    encode_frame,
)

MESSAGES: list[FromWorker] = [
    Hello(wire_version=1, pid=7, engine="torch", dtype="bfloat16", primed_ms=1.5),
    Tokens(events=[TokenEvent("r", 5), TokenEvent("r", 2, finish="stop")]),
    Failed("out of memory", request_id="r"),
]
STREAM = b"".join(map(encode_frame, MESSAGES))


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_messages_survive_any_split_of_their_bytes(cuts: list[int]) -> None:
    splitter, borders = FrameSplitter(), [0, *sorted(cuts), len(STREAM)]
    bodies = [body for a, b in zip(borders, borders[1:], strict=False) for body in splitter.feed(STREAM[a:b])]
    assert [decode_from_worker(body) for body in bodies] == MESSAGES


def test_absurd_length_is_refused_before_it_is_awaited() -> None:
    with pytest.raises(WireError, match="exceeds"):
        FrameSplitter().feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5other"])
def test_unknown_message_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_from_worker(body)
    with pytest.raises(WireError):
        decode_to_worker(body)


def test_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(WireError):
        decode_from_worker(encode_frame(Cancel("r"))[4:])
