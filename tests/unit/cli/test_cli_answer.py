# SPDX-License-Identifier: Apache-2.0
"""A streamed answer in the terminal, in a pipe, and as a document."""

from __future__ import annotations

import io
import sys

import pytest

from serverlessllm.cli.answer import Answer, AnswerPrinter
from serverlessllm.errors import WorkerLostError
from serverlessllm.sdk.start_summary import StartSummary
from serverlessllm.sdk.stream import Chunk, Done, Error, Progress, StreamItem, TimelineComment

SUMMARY = StartSummary("cold", "nvme", {"read": 100.0}, 120.0)
ITEMS: list[StreamItem] = [
    Progress("loading 41% eta 0.8s", 41.0, 0.8),
    Chunk(1, "Hi\x1b[31m", (5,)),
    Chunk(3, " there\r", (6, 7), finish_reason="stop"),
    Chunk(3, "", usage={"completion_tokens": 3}),
    TimelineComment(SUMMARY),
    Done(),
]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _drawn(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> tuple[str, str]:
    err = type(stream)()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", err)
    with AnswerPrinter() as printer:
        for item in ITEMS:
            printer.draw(item)
    return stream.getvalue(), err.getvalue()


def test_answer_adds_up_to_text_ids_usage_and_timeline() -> None:
    answer = Answer()
    for item in ITEMS:
        answer.take(item)
    document = answer.as_document("m")
    assert document["text"] == "Hi\x1b[31m there\r"
    assert (document["token_ids"], document["finish_reason"]) == ([5, 6, 7], "stop")
    assert document["usage"] == {"completion_tokens": 3}
    assert document["timeline"] is not None


def test_failed_stream_raises_the_error_that_it_carries() -> None:
    with pytest.raises(WorkerLostError, match="died"):
        Answer().take(Error(WorkerLostError("worker 7 died")))


def test_terminal_gets_text_without_control_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = _drawn(monkeypatch, _Terminal())
    assert out == "Hi[31m there\n"
    assert "loading 41% eta 0.8s" in err and err.endswith("\r\x1b[2K")


def test_pipe_gets_the_text_as_the_model_wrote_it_and_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = _drawn(monkeypatch, io.StringIO())
    assert (out, err) == ("Hi\x1b[31m there\r\n", "")
