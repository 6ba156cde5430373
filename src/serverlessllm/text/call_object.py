# SPDX-License-Identifier: Apache-2.0
"""One call as a model writes it, `{"name": …, "arguments": {…}}`, read character by character. Pure.

Knows no markers around it. Arguments are handed on as written: a stream of them joins to the model's own text.
"""

from __future__ import annotations

import json
from typing import Final, Literal

_SPACE: Final = " \t\r\n"
_Part = Literal["start", "key", "colon", "value", "comma"]


class CallObject:
    """`push` every character.

    `name` is None until it was read. `is_done` after the closing brace, `is_bad` once this cannot be a call.
    """

    def __init__(self, arguments_key: str) -> None:
        self._raw: list[str] = []
        self.name: str | None = None
        self.is_done = False
        self.is_bad = False
        self.has_arguments = False
        self._arguments_key = arguments_key
        self._arguments: list[str] = []
        self._part: _Part = "start"
        self._key = ""
        self._value: list[str] = []
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def raw(self) -> str:
        """All that was pushed."""
        return "".join(self._raw)

    def take_arguments(self) -> str:
        """Arguments that came since the last call."""
        taken = "".join(self._arguments)
        self._arguments = []
        return taken

    def push(self, char: str) -> None:
        """Read one more character; not after `is_done` or `is_bad`."""
        self._raw.append(char)
        if self._part == "value":
            self._push_value(char)
        elif self._in_string:
            self._push_key(char)
        elif char not in _SPACE:
            self._push_between(char)

    def _push_between(self, char: str) -> None:
        """Between values: braces, colons, commas, and the quote that starts a key."""
        match self._part, char:
            case "start", "{":
                self._part = "key"
            case "key", '"':
                self._in_string, self._key = True, char
            case "colon", ":":
                self._part, self._value = "value", []
            case "comma", ",":
                self._part = "key"
            case (("comma" | "key"), "}"):
                self._finish()
            case _:
                self.is_bad = True

    def _push_key(self, char: str) -> None:
        self._key += char
        if self._advance_string(char):
            self._key = _loads_text(self._key) or ""
            self._part = "colon"

    def _push_value(self, char: str) -> None:
        if not self._value:
            if char in _SPACE:
                return
            if self._key == self._arguments_key and char not in '{"':
                self.is_bad = True
                return
        if self._in_string:
            self._add(char)
            if self._advance_string(char) and not self._depth:
                self._end_value()
        elif not self._depth and self._value and char in ",}":
            self._end_value()
            self._push_between(char)
        else:
            self._add(char)
            self._advance_nesting(char)

    def _advance_nesting(self, char: str) -> None:
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if not self._depth:
                self._end_value()

    def _advance_string(self, char: str) -> bool:
        """Whether `char` ends the string that we are in."""
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = False
            return True
        return False

    def _add(self, char: str) -> None:
        self._value.append(char)
        if self._key == self._arguments_key and self._value[0] == "{":
            self.has_arguments = True
            self._arguments.append(char)

    def _end_value(self) -> None:
        self._part = "comma"
        if self._key == "name":
            self.name = _loads_text("".join(self._value))
            self.is_bad = self.name is None
        elif self._key == self._arguments_key and not self.has_arguments:
            # Some models write the arguments as a string that holds JSON.
            self._arguments.append(_loads_text("".join(self._value)) or "")
            self.has_arguments = True

    def _finish(self) -> None:
        if not self.has_arguments:
            self.has_arguments, self._arguments = True, ["{}"]
        self.is_done = self.name is not None
        self.is_bad = not self.is_done


def _loads_text(value: str) -> str | None:
    """The JSON string that `value` spells, if it does."""
    try:
        text = json.loads(value, strict=False)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
