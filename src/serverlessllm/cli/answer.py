# SPDX-License-Identifier: Apache-2.0
"""One streamed answer: what it adds up to, and how it is drawn while it comes. Sends nothing."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

import click

from serverlessllm.cli.terminal import one_line, strip_control
from serverlessllm.sdk.start_summary import StartSummary
from serverlessllm.sdk.stream import Chunk, Error, Progress, Reconnecting, StreamItem, TimelineComment

ERASE_LINE = "\r\x1b[2K"


@dataclass(slots=True)
class Answer:
    """Everything that a stream delivered so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    summary: StartSummary | None = None

    def take(self, item: StreamItem) -> None:
        """Add one item. Raises the error that a failed stream carries."""
        if isinstance(item, Chunk):
            self.text += item.text
            self.token_ids += item.token_ids
            self.finish_reason = item.finish_reason or self.finish_reason
            self.usage = item.usage or self.usage
        elif isinstance(item, TimelineComment):
            self.summary = item.summary
        elif isinstance(item, Error):
            raise item.error

    def as_document(self, model: str) -> dict[str, object]:
        """What `--json` prints."""
        return {
            "model": model,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "token_ids": self.token_ids,
            "usage": self.usage,
            "timeline": asdict(self.summary) if self.summary is not None else None,
        }


class AnswerPrinter:
    """Text to stdout as it comes, a line about the waking to stderr while there is none. A context manager.

    On a terminal the text is stripped of control characters; a pipe gets it as the model wrote it.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._is_terminal = sys.stdout.isatty()
        self._shows_progress = sys.stderr.isatty()
        self._has_line = False
        self._needs_newline = False

    def draw(self, item: StreamItem) -> None:
        """Show one item; nothing when silent."""
        if self._is_silent:
            return
        if isinstance(item, Reconnecting):
            self._note(f"{item.reason}; asking for the rest ({item.num_try} of {item.max_tries})")
        elif isinstance(item, Progress) and self._shows_progress:
            sys.stderr.write(f"{ERASE_LINE}{click.style(one_line(item.text), dim=True)}")
            sys.stderr.flush()
            self._has_line = True
        elif isinstance(item, Chunk) and item.text:
            self._erase()
            text = strip_control(item.text) if self._is_terminal else item.text
            sys.stdout.write(text)
            sys.stdout.flush()
            self._needs_newline = not item.text.endswith("\n")

    def _note(self, text: str) -> None:
        """A line of its own on stderr, below what was written of the answer."""
        self._erase()
        newline = "\n" if self._needs_newline and self._is_terminal else ""
        sys.stderr.write(f"{newline}{one_line(text)}\n")
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._has_line:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            self._has_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._erase()
        if self._needs_newline:
            sys.stdout.write("\n")
            sys.stdout.flush()
