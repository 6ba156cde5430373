# SPDX-License-Identifier: Apache-2.0
"""Ends an answer at the first stop string, and never shows text that might become one.

Knows no tokens: it sees characters. The result depends on the text alone, not on how it was cut into
pushes, so that a stream resumed elsewhere stops at the same character.
"""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.errors import InvalidRequestError


class _Matcher:
    """Knuth-Morris-Pratt over one stop string: `matched` is the longest prefix of it that the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._borders = _borders(stop)

    def advance(self, char: str) -> bool:
        """Take one character; True when the whole stop string has just been seen. O(1) amortised."""
        matched = self.matched
        while matched and self.stop[matched] != char:
            matched = self._borders[matched - 1]
        if self.stop[matched] == char:
            matched += 1
        self.matched = matched
        return matched == len(self.stop)


class StopStrings:
    """Filter for the text of one choice.

    The stop that counts is the one completed first; of two completed by the same character, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InvalidRequestError naming `stop` for an empty string."""
        if not all(stops):
            raise InvalidRequestError("stop: an empty string would stop at once; leave it out", param="stop")
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._held = ""
        self._is_stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; return (what may be shown now, whether a stop string was met).

        After a stop the rest is dropped, and every further push gives `("", True)`.
        """
        if self._is_stopped:
            return "", True
        if not self._matchers:
            return text, False
        pending = self._held + text
        for position, char in enumerate(text, start=len(self._held) + 1):
            met = [len(matcher.stop) for matcher in self._matchers if matcher.advance(char)]
            if met:
                self._is_stopped, self._held = True, ""
                return pending[: position - max(met)], True
        cut = len(pending) - max(matcher.matched for matcher in self._matchers)
        self._held = pending[cut:]
        return pending[:cut], False

    def flush(self) -> str:
        """The generation ended without a stop string: what was held back."""
        held, self._held = self._held, ""
        return held


def _borders(text: str) -> list[int]:
    """For each prefix of `text`: the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        if text[index] == text[length]:
            length += 1
        borders[index] = length
    return borders
