# SPDX-License-Identifier: Apache-2.0
"""Finds the calls in an answer's text while it is written. Pure but for its own state; knows no tokens.

    text    → calls     the opening marker, or a brace where the whole answer may be a call
    calls   → object    a brace
            → text      the closing marker, or anything that is no call: then what was held back is text
    object  → calls     its closing brace
            → text      it is no call of a known function: what was held back is text

What might become a call is held back until the function's name was read and its arguments begin; from there on they
are delivered as they come. The result depends on the text alone, not on how it was cut into pushes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from serverlessllm.text.call_object import CallObject
from serverlessllm.text.tool_syntax import ToolSyntax

_SPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What a call gained. `name` is set on its first delta only; `arguments` joins to JSON as the model wrote it."""

    index: int
    arguments: str
    name: str | None = None


@dataclass(slots=True)
class Parsed:
    """What a push made certain: text that is no call, and what calls gained."""

    text: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class ToolCallParser:
    """One answer. `num_calls` counts those that were begun, `num_finished` those that are whole."""

    def __init__(self, syntax: ToolSyntax, names: Collection[str]) -> None:
        """`names` of the functions that may be called; an object that names none of them is text."""
        self._syntax = syntax
        self._names = frozenset(names)
        self._state: Literal["text", "calls", "object"] = "text"
        self._buffer = ""
        self._held = ""  # read already, and text unless it becomes a call
        self._space = ""  # ends the text so far; dropped where a call follows
        self._is_start = True
        self._object = CallObject(syntax.arguments_key)
        self._is_begun = False
        self._is_announced = False
        self.num_calls = 0
        self.num_finished = 0

    def push(self, text: str) -> Parsed:
        """Read more of the answer."""
        self._buffer += text
        parsed = Parsed()
        steps = {"text": self._read_text, "calls": self._read_calls, "object": self._read_object}
        while self._buffer and steps[self._state](parsed):
            pass
        return parsed

    def flush(self) -> Parsed:
        """The answer ended: what was held back is text, unless it belongs to a call that was begun."""
        parsed = Parsed()
        if self._state == "calls" and self.num_calls and self._syntax.closing.startswith(self._buffer):
            self._buffer = ""  # the closing marker was cut
        if self._state == "object" and not self._is_begun:
            self._held += self._object.raw
        if not self._is_begun:
            self._emit(parsed, self._held + self._buffer)
        if not self.num_calls:
            parsed.text += self._space
        self._buffer = self._held = self._space = ""
        return parsed

    def _read_text(self, parsed: Parsed) -> bool:
        """Deliver text up to the next call. Returns whether more can be read."""
        opening = self._syntax.opening
        if self._is_start and self._syntax.is_bare and self._buffer.lstrip(_SPACE).startswith("{"):
            self._state = "calls"
            return True
        at = self._buffer.find(opening)
        if at >= 0:
            self._emit(parsed, self._buffer[:at])
            self._held, self._buffer = opening, self._buffer[at + len(opening) :]
            self._state = "calls"
            return True
        kept = _overlap(self._buffer, opening)
        if self._is_start and self._syntax.is_bare and not self._buffer.strip(_SPACE):
            kept = len(self._buffer)
        certain = len(self._buffer) - kept
        self._emit(parsed, self._buffer[:certain])
        self._buffer = self._buffer[certain:]
        return False

    def _read_calls(self, parsed: Parsed) -> bool:
        skipped = len(self._buffer) - len(self._buffer.lstrip(_SPACE + self._syntax.fillers))
        self._hold(skipped)
        closing = self._syntax.closing
        if self._buffer.startswith("{"):
            self._state, self._object, self._is_begun = (
                "object",
                CallObject(self._syntax.arguments_key),
                False,
            )
        elif closing and self._buffer.startswith(closing) and not self._held:
            self._buffer = self._buffer[len(closing) :]
            self._state = "text"
        elif closing and self._buffer and closing.startswith(self._buffer) and not self._held:
            return False
        elif self._buffer:
            self._give_up(parsed)
        return bool(self._buffer)

    def _read_object(self, parsed: Parsed) -> bool:
        call = self._object
        for position, char in enumerate(self._buffer, start=1):
            call.push(char)
            self._begin_if_certain()
            if call.is_bad or call.is_done:
                self._buffer = self._buffer[position:]
                break
        else:
            self._buffer = ""
        self._deliver(parsed)
        if call.is_done and self._is_begun:
            self.num_finished += 1
            self._state, self._is_begun = "calls", False
        elif call.is_done or call.is_bad:
            self._held += "" if self._is_begun else call.raw
            self._is_begun = False
            self._give_up(parsed)
        return bool(self._buffer)

    def _begin_if_certain(self) -> None:
        call = self._object
        if not self._is_begun and call.has_arguments and call.name in self._names:
            self._is_begun, self._is_announced = True, False
            self._held = self._space = ""
            self._is_start = False
            self.num_calls += 1

    def _deliver(self, parsed: Parsed) -> None:
        call = self._object
        if not self._is_begun:
            return
        arguments = call.take_arguments()
        name = None if self._is_announced else call.name
        self._is_announced = True
        if arguments or name:
            parsed.calls.append(CallDelta(self.num_calls - 1, arguments, name))

    def _give_up(self, parsed: Parsed) -> None:
        """What was held back is text after all."""
        self._emit(parsed, self._held)
        self._held = ""
        self._is_start = False
        self._state = "text"

    def _hold(self, num_characters: int) -> None:
        """Skip characters between calls; before the first call they might still be text."""
        if self._held or self._is_start:
            self._held += self._buffer[:num_characters]
        self._buffer = self._buffer[num_characters:]

    def _emit(self, parsed: Parsed, text: str) -> None:
        if text.strip(_SPACE):
            self._is_start = False
        text = self._space + text
        shown = text.rstrip(_SPACE)
        self._space = text[len(shown) :]
        parsed.text += shown


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
