# SPDX-License-Identifier: Apache-2.0
"""The client's stream parser: our grammar, cut anywhere, and what other servers and proxies do to it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import QueueFullError, WireError, WorkerLostError
from serverlessllm.sdk.stream import (
    MAX_EVENT_BYTES,
    Chunk,
    Done,
    Error,
    Progress,
    StreamItem,
    StreamParser,
    TimelineComment,
)
from serverlessllm.wire import sse


def _chat_chunk(text: str, ids: list[int], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, "token_ids": ids}
    return json.dumps({"id": "chatcmpl-1", "choices": [choice]}, ensure_ascii=False).encode()


def _recorded() -> bytes:
    timeline = '{"start":"cold","tier":"nvme","queue":0.1,"read":140.5,"bind":22,"ttft":230.2,"gbps":1.91}'
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return b"".join(
        [
            sse.comment("loading 41% eta 0.8s"),
            sse.event(1, _chat_chunk("Grüß", [17])),
            sse.event(3, _chat_chunk(" Gott 🙂", [4, 5], "stop")),
            sse.event(3, json.dumps({"choices": [], "usage": usage}).encode()),
            sse.comment(f"timeline {timeline}"),
            sse.DONE,
        ]
    )


def _items(*pieces: bytes) -> list[StreamItem]:
    parser = StreamParser()
    return [*(item for piece in pieces for item in parser.feed(piece)), *parser.finish()]


def test_recorded_stream_gives_progress_text_ids_usage_timeline_and_done() -> None:
    items = _items(_recorded())
    assert items[0] == Progress("loading 41% eta 0.8s", percent=41.0, eta_s=0.8)
    assert items[1] == Chunk(1, "Grüß", (17,))
    assert items[2] == Chunk(3, " Gott 🙂", (4, 5), finish_reason="stop")
    assert isinstance(items[3], Chunk) and items[3].usage == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
    }
    assert isinstance(items[4], TimelineComment)
    assert items[4].summary.phases_ms["read"] == 140.5
    assert items[5:] == [Done()]


@given(st.lists(st.integers(0, len(_recorded())), max_size=12))
def test_any_chunking_gives_the_same_items(cuts: list[int]) -> None:
    data = _recorded()
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert _items(*pieces) == _items(data)


@given(st.integers(0, len(_recorded()) - len(b"\n") - 1))
def test_stream_cut_anywhere_gives_a_prefix_of_the_items_and_one_error(length: int) -> None:
    *seen, last = _items(_recorded()[:length])
    assert isinstance(last, Error) and isinstance(last.error, WireError)
    assert seen == _items(_recorded())[: len(seen)]


@given(st.binary(max_size=400))
def test_foreign_bytes_never_raise(data: bytes) -> None:
    assert isinstance(_items(data)[-1], Error | Done)


def test_error_event_becomes_the_typed_error_and_ends_the_stream() -> None:
    items = _items(sse.event(1, _chat_chunk("a", [1])), sse.failure(WorkerLostError("worker 7 died")))
    assert len(items) == 2
    assert isinstance(items[1], Error) and isinstance(items[1].error, WorkerLostError)
    assert items[1].error.message == "worker 7 died"


def test_crlf_and_several_data_lines_are_read_as_the_standard_says() -> None:
    items = _items(b'data: {"choices":\r\ndata: [{"text":"hi"}]}\r\n\r\ndata: [DONE]\r\n\r\n')
    assert items == [Chunk(None, "hi"), Done()]


def test_unknown_comment_is_progress_without_numbers() -> None:
    assert _items(b": waiting for a node\n", sse.DONE) == [Progress("waiting for a node"), Done()]


def test_broken_timeline_comment_is_only_a_comment() -> None:
    assert _items(b": timeline {oops\n", sse.DONE)[0] == Progress("timeline {oops")


def test_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(WireError, match="exceeds"):
        StreamParser().feed(b"data: " + b"x" * MAX_EVENT_BYTES)


def test_bytes_after_an_error_do_not_report_done() -> None:
    parser = StreamParser()
    items = parser.feed(sse.failure(QueueFullError("full")) + sse.DONE)
    assert [type(item) for item in items] == [Error]
