# SPDX-License-Identifier: Apache-2.0
"""What a client has of its stream, read from the bytes that went to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.errors import CannotResumeError
from serverlessllm.orchestrator.stream_record import MAX_RAW_BYTES, StreamRecord
from serverlessllm.wire import sse
from serverlessllm.wire.resume import ResumedChoice

DIGEST = "00112233445566778899aabbccddeeff"


def chunk(seq: int, *choices: dict[str, Any], **fields: Any) -> bytes:
    return sse.event(seq, json.dumps({"id": "r", "choices": choices, **fields}).encode())


def chat(ids: list[int], text: str | None, index: int = 0, finish: str | None = None, **delta: Any) -> Any:
    return {
        "index": index,
        "delta": {"content": text, **delta},
        "token_ids": ids,
        "finish_reason": finish,
    }


def record(*events: bytes, num_choices: int = 1, seq: int = 9) -> StreamRecord:
    kept = StreamRecord(num_choices)
    kept.prompt_digest, kept.seq = DIGEST, seq
    for event in events:
        kept.keep(event)
    return kept


def test_ids_characters_and_ends_are_counted_by_choice() -> None:
    kept = record(
        chunk(1, chat([5], "Hé")) + chunk(2, chat([6], "🙂", 1)),
        sse.comment("prefill") + chunk(4, chat([7, 8], "data: x\n\n", finish="stop")),
        num_choices=2,
    )
    assert kept.head().choices == [ResumedChoice([5, 7, 8], 11, "stop"), ResumedChoice([6], 1)]
    assert (kept.head().seq, kept.head().prompt_digest) == (9, DIGEST)


def test_completions_and_arguments_of_calls_count_as_characters() -> None:
    text = {"index": 0, "text": "abc", "token_ids": [1], "finish_reason": None}
    assert record(chunk(1, text)).head().choices == [ResumedChoice([1], 3)]
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a"'}}
    assert record(chunk(1, chat([1], None, tool_calls=[call]))).head().choices == [ResumedChoice([1], 4)]


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_is_whole_once_all_ended_and_usage_came(with_usage: bool) -> None:
    kept = record(chunk(1, chat([1], "a", finish="length")))
    assert kept.is_whole(with_usage=with_usage) != with_usage
    kept.keep(chunk(1, usage={"prompt_tokens": 1}))
    assert kept.is_whole(with_usage=with_usage)


def test_long_stream_is_read_early_and_still_told_whole() -> None:
    events = [chunk(seq, chat([seq], "word ")) for seq in range(1, 20_001)]
    assert sum(map(len, events)) > MAX_RAW_BYTES
    assert record(*events, seq=20_000).head().choices == [ResumedChoice(list(range(1, 20_001)), 100_000)]


def test_stream_without_a_digest_or_of_another_shape_cannot_go_on() -> None:
    with pytest.raises(CannotResumeError, match="digest"):
        StreamRecord(1).head()
    with pytest.raises(CannotResumeError, match="choice 1"):
        record(chunk(1, chat([1], "a", 1))).head()
