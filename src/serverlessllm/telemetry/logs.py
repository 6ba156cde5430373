# SPDX-License-Identifier: Apache-2.0
"""Log records as one line each, to stderr: text for people, JSON for machines. Never an answer or a key.

A JSON line names the trace and the span for which its task worked: logs of several processes can be put beside a
request's trace. Prompts appear only where `telemetry.record_prompts` asks for them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from serverlessllm.wire import trace_context

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
FIELDS: Final = "sllm_fields"
"""Of a record: a mapping whose entries become fields of its JSON line; `log.info(…, extra={FIELDS: {…}})`."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: `time level logger message process`, `trace_id span_id`, `error`, its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its line break."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        context = trace_context.current()
        if context is not None:
            line |= {"trace_id": context.trace_id, "span_id": context.span_id}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, log_format: str = "text") -> None:
    """Send the log of this process to stderr. `level`: debug, info, warning or error; `log_format`: text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
