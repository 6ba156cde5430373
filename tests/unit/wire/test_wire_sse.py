# SPDX-License-Identifier: Apache-2.0
"""The stream grammar: golden bytes of its page, and the relay under every cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import WireError, WorkerLostError
from serverlessllm.wire import sse
from support.fake_agent import TEXT, recorded_stream
from support.stream_grammar import parse_stream

PAGE = Path(__file__).resolve().parents[3] / "docs" / "stream.md"
STREAM = recorded_stream("chatcmpl-1")
CLIENT_STREAM = STREAM.partition(b"\n")[2]
CHUNK = b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]}'


def golden(name: str) -> bytes:
    """The bytes of a block of the page."""
    found = re.search(rf"```golden {name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1].encode()


def chunk(seq: int, delta: bytes, finish: bytes, ids: bytes) -> bytes:
    choice = b'{"index":0,"delta":%b,"finish_reason":%b,"token_ids":%b}' % (delta, finish, ids)
    return sse.event(seq, CHUNK % choice)


def client_stream(received: bytes) -> bytes:
    """What a client gets when an agent's stream ends after `received`."""
    relay = sse.StreamRelay()
    sent = relay.feed(received)
    return sent if relay.is_done else sent + sse.failure(WorkerLostError("the worker died"))


def test_hot_stream_is_that_of_the_page() -> None:
    first = chunk(1, b'{"role":"assistant","content":"Hi"}', b"null", b"[72]")
    assert first + chunk(3, b'{"content":" you"}', b'"stop"', b"[345,2]") + sse.DONE == golden("hot")


def test_held_stream_is_that_of_the_page() -> None:
    comment, rest = sse.comment("loading 41% eta 0.8s"), golden("held")
    event = chunk(1, b'{"role":"assistant","content":"Hi"}', b'"stop"', b"[72]")
    assert rest.startswith(comment + event + b": timeline {")
    assert parse_stream(rest).text == "Hi"


def test_failure_is_that_of_the_page() -> None:
    assert sse.failure(WorkerLostError("the worker died", source="engine")) == golden("error")


def test_line_breaks_do_not_leave_a_comment() -> None:
    assert sse.comment("a\r\nb\n\nc") == b": a b  c\n"


def test_every_cut_leaves_a_well_formed_client_stream() -> None:
    for cut_at in range(len(STREAM) + 1):
        parsed = parse_stream(client_stream(STREAM[:cut_at]))
        assert TEXT.startswith(parsed.text)
        assert (parsed.error is None) is (cut_at == len(STREAM))


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_whole_stream_arrives_however_it_is_split(cuts: list[int]) -> None:
    relay = sse.StreamRelay()
    borders = [0, *sorted(cuts), len(STREAM)]
    sent = b"".join(relay.feed(STREAM[a:b]) for a, b in zip(borders, borders[1:], strict=False))
    assert sent == CLIENT_STREAM
    assert (relay.is_done, relay.seq, relay.prompt_digest) == (True, 5, "0123abcd")


@given(st.lists(st.integers(1, len(STREAM) - 1), min_size=1, max_size=8))
def test_only_whole_events_are_forwarded_at_any_moment(cuts: list[int]) -> None:
    relay = sse.StreamRelay()
    borders = [0, *sorted(cuts)]
    sent = b"".join(relay.feed(STREAM[a:b]) for a, b in zip(borders, borders[1:], strict=False))
    assert CLIENT_STREAM.startswith(sent)
    assert sent == b"" or sent.endswith(b"\n\n")


def test_stream_without_a_digest_is_passed_on_whole() -> None:
    relay = sse.StreamRelay()
    assert relay.feed(CLIENT_STREAM) == CLIENT_STREAM
    assert relay.prompt_digest is None


def test_event_that_never_ends_is_an_error() -> None:
    relay = sse.StreamRelay()
    with pytest.raises(WireError):
        for _ in range(20):
            relay.feed(b"x" * (1 << 20))


@pytest.mark.parametrize(
    ("data", "seq"),
    [(b"id: 7\ndata: {}\n\n", 7), (b'id: 7\ndata: "id: 9"\n\n', 7), (b"data: {}\n\n", None), (b"", None)],
)
def test_last_seq_is_that_of_the_last_event(data: bytes, seq: int | None) -> None:
    assert sse.last_seq(data) == seq
