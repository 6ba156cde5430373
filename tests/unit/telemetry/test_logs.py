# SPDX-License-Identifier: Apache-2.0
"""Lines of the log: text for people, JSON with trace ids for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from serverlessllm.telemetry import logs
from serverlessllm.wire import trace_context

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    trace_context.enter(None)


def test_json_line_has_message_level_fields_and_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    trace_context.enter(trace_context.parse(HEADER))
    logging.getLogger("serverlessllm.x").info("lo%sd", "a", extra={logs.FIELDS: {"model": "m"}})
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["level"], line["logger"]) == ("load", "info", "serverlessllm.x")
    assert (line["model"], line["trace_id"]) == ("m", "0af7651916cd43dd8448eb211c80319c")
    assert line["time"].endswith("+00:00")


def test_json_line_stays_one_line_with_a_traceback_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("failed\nbadly")
    line = json.loads(capsys.readouterr().err)
    assert "ValueError: two" in line["error"] and line["message"] == "failed\nbadly"
    assert "trace_id" not in line


def test_text_is_the_default_and_carries_no_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logging.getLogger("x").info("hello", extra={logs.FIELDS: {"model": "m"}})
    assert capsys.readouterr().err.endswith("INFO    x: hello\n")
