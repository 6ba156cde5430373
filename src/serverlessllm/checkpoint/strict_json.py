# SPDX-License-Identifier: Apache-2.0
"""JSON that trusts nothing: canonical writing, strict parsing, field access with errors that name the field.

Knows no record of the artifact format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Final, NoReturn

from serverlessllm.errors import CheckpointFormatError

_MAX_DIGITS: Final = 19


def dumps_canonical(value: object) -> bytes:
    """UTF-8, keys sorted by code point, no spaces, nothing escaped that need not be.

    Raises: CheckpointFormatError for NaN, infinities, lone surrogates and absurd nesting.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"cannot be written as canonical JSON: {error}") from error


def loads_strict(data: bytes, *, what: str) -> object:
    """Parse JSON; `what` names the document in errors.

    Raises: CheckpointFormatError for bad UTF-8 or JSON, duplicate keys, non-finite or absurd numbers and
    absurd nesting.
    """

    def pairs(members: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(members)
        if len(found) != len(members):
            keys = [key for key, _ in members]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise CheckpointFormatError(f"{what}: key {twice[:80]!r} appears twice", param=twice[:80])
        return found

    def integer(digits: str) -> int:
        if len(digits.lstrip("-")) > _MAX_DIGITS:
            raise CheckpointFormatError(f"{what}: absurd number {digits[:24]}… ({len(digits)} digits)")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise CheckpointFormatError(f"{what}: non-finite number {digits[:24]}")
        return value

    def constant(name: str) -> NoReturn:
        raise CheckpointFormatError(f"{what}: non-finite number {name}")

    try:
        text = data.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=pairs, parse_int=integer, parse_float=number, parse_constant=constant
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{what}: not valid JSON: {error}", param=what) from error


class Fields:
    """The members of one JSON object at `path`, taken one by one; what is left is `rest()`.

    Every accessor raises CheckpointFormatError with the member's full path (`tensors[3].offset`) as `param`.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            fail(path or "index", "expected an object")
        self._left: dict[str, object] = dict(value)
        self._path = path

    def path(self, name: str) -> str:
        """The full path of member `name`."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> object:
        """The member as it is; missing is an error."""
        if name not in self._left:
            fail(self.path(name), "is missing")
        return self._left.pop(name)

    def text(self, name: str, *, max_bytes: int, pattern: re.Pattern[str] | None = None) -> str:
        """A non-empty string that matches `pattern` as a whole."""
        return check_text(self.take(name), self.path(name), max_bytes=max_bytes, pattern=pattern)

    def integer(self, name: str, *, low: int, high: int) -> int:
        """An integer within [low, high]."""
        return check_integer(self.take(name), self.path(name), low=low, high=high)

    def items(self, name: str, *, max_items: int) -> list[tuple[str, object]]:
        """The list's items, each with its path."""
        value, path = self.take(name), self.path(name)
        if not isinstance(value, list):
            fail(path, "expected a list")
        if len(value) > max_items:
            fail(path, f"{len(value)} items exceed the bound of {max_items}")
        return [(f"{path}[{i}]", item) for i, item in enumerate(value)]

    def texts(
        self, name: str, *, max_items: int, max_bytes: int, pattern: re.Pattern[str] | None = None
    ) -> tuple[str, ...]:
        """A list of strings, each checked like `text`."""
        items = self.items(name, max_items=max_items)
        return tuple(check_text(item, path, max_bytes=max_bytes, pattern=pattern) for path, item in items)

    def rest(self) -> Mapping[str, object]:
        """Members not taken: unknown optional fields, kept."""
        return self._left


def fail(path: str, problem: str) -> NoReturn:
    """Raise CheckpointFormatError for the field at `path`."""
    raise CheckpointFormatError(f"{path}: {problem}", param=path)


def check_text(value: object, path: str, *, max_bytes: int, pattern: re.Pattern[str] | None = None) -> str:
    """`value` if it is a non-empty string within the bound and the pattern."""
    if not isinstance(value, str):
        fail(path, "expected a string")
    if not value:
        fail(path, "is empty")
    if len(value.encode("utf-8", "replace")) > max_bytes:
        fail(path, f"longer than {max_bytes} bytes")
    if pattern is not None and not pattern.fullmatch(value):
        fail(path, f"{value[:80]!r} does not have the form {pattern.pattern}")
    return value


def check_integer(value: object, path: str, *, low: int, high: int) -> int:
    """`value` if it is an integer (not a boolean, not 1.0) within [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool):
        fail(path, "expected an integer")
    if not low <= value <= high:
        fail(path, f"{value} is out of range; must be between {low} and {high}")
    return value
