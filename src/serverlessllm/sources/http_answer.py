# SPDX-License-Identifier: Apache-2.0
"""What an answer to a range request says: which object, which bytes, or which failure. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serverlessllm.errors import (
    CorruptDataError,
    ModelLoadError,
    PermissionDeniedError,
    SllmError,
    UnreachableError,
)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d{1,19})")
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509})
_MISSING: Final = frozenset({404, 410})
_DENIED: Final = frozenset({401, 403})
MAX_RETRY_AFTER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class HttpIdentity:
    """Equal identities mean the same bytes, as far as the server tells."""

    etag: str | None
    last_modified: str | None
    size_bytes: int | None

    @property
    def condition(self) -> str | None:
        """For `If-Range`: a strong ETag; a weak one or a date (one second coarse) cannot promise equal bytes."""
        return None if self.etag is None or self.etag.startswith("W/") else self.etag

    def is_same(self, other: HttpIdentity) -> bool:
        """Whether nothing that both tell differs."""
        pairs = (
            (self.etag, other.etag),
            # Servers behind one name may differ in the date of a file that they agree on by its tag.
            (self.last_modified, other.last_modified) if None in (self.etag, other.etag) else (None, None),
            (self.size_bytes, other.size_bytes),
        )
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """A successful answer. `start`, `end`: which bytes follow (end excluded); None for the whole object (200)."""

    identity: HttpIdentity
    start: int | None
    end: int | None


def read_answer(status: int, headers: Mapping[str, str], *, name: str) -> RangeAnswer:
    """Understand the answer to a range request. `headers` has lower-case keys.

    Raises: UnreachableError (with `retry_after_s`) where a later try may succeed; PermissionDeniedError;
    CorruptDataError for a missing object; ModelLoadError for anything that no server should say.
    """
    if status not in (200, 206, 416):
        raise _failure(status, headers, name)
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise _strange(name, f"it sends the bytes as {encoding[:40]!r} instead of as they are")
    if status == 200:
        length = headers.get("content-length", "")
        return RangeAnswer(_identity(headers, int(length) if length.isdecimal() else None), None, None)
    if status == 416:
        empty = _NO_RANGE.fullmatch(headers.get("content-range", ""))
        if empty is None:
            raise _strange(name, "it refuses a range without telling the size")
        return RangeAnswer(_identity(headers, int(empty[1])), 0, 0)
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None:
        raise _strange(name, f"its Content-Range is {headers.get('content-range', 'missing')[:80]!r}")
    size = None if found[3] == "*" else int(found[3])
    return RangeAnswer(_identity(headers, size), int(found[1]), int(found[2]) + 1)


def _identity(headers: Mapping[str, str], size_bytes: int | None) -> HttpIdentity:
    return HttpIdentity(headers.get("etag"), headers.get("last-modified"), size_bytes)


def check_range(answer: RangeAnswer, pinned: HttpIdentity, start: int, end: int, *, name: str) -> None:
    """Whether `answer` brings exactly bytes [start, end) of the object that was opened.

    Raises: CorruptDataError when the object has changed; ModelLoadError when other bytes would follow.
    """
    if not pinned.is_same(answer.identity):
        raise CorruptDataError(
            f"{name} has changed since it was opened; begin again", param=name, source="agent"
        )
    if answer.start is None:
        if (start, end) == (0, pinned.size_bytes):
            return
        raise _strange(name, "it answers a range with the whole object")
    if (answer.start, answer.end) != (start, end):
        raise _strange(
            name, f"asked for bytes {start}-{end - 1} it sends {answer.start}-{(answer.end or 0) - 1}"
        )


def _failure(status: int, headers: Mapping[str, str], name: str) -> SllmError:
    if status in _LATER:
        wait = headers.get("retry-after", "")
        retry_after_s = min(float(wait), MAX_RETRY_AFTER_S) if wait.isdecimal() else None
        return UnreachableError(f"{name}: HTTP {status}", source="agent", retry_after_s=retry_after_s)
    if status in _DENIED:
        return PermissionDeniedError(
            f"{name}: HTTP {status}; check the credentials and their rights", param=name
        )
    if status in _MISSING:
        return CorruptDataError(f"{name} does not exist (HTTP {status})", param=name, source="agent")
    if status == 412:
        return CorruptDataError(f"{name} has changed since it was opened", param=name, source="agent")
    return _strange(name, f"it answers HTTP {status}")


def _strange(name: str, what: str) -> ModelLoadError:
    return ModelLoadError(f"{name} cannot be read in ranges: {what}", source="agent")
