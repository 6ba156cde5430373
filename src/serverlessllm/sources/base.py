# SPDX-License-Identifier: Apache-2.0
"""What every medium offers and what every download takes: values and Protocols only.

Knows no medium, no thread and no format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from serverlessllm.types import Tier


class Source(Protocol):
    """One object (a file, wherever it lies) that several threads may read at once, at any offsets.

    `name` is shown to people and in blame; it never carries credentials or a query string. `tier` says which
    medium the bytes come from.
    """

    name: str
    tier: Tier

    @property
    def size(self) -> int:
        """Bytes in the object. May ask the medium once. Raises as `read_into`."""
        ...

    @property
    def identity(self) -> object:
        """Equal identities mean the same bytes, as far as the medium tells (ETag, inode and mtime, LFS oid)."""
        ...

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the writable byte `view` from `offset`; returns the bytes read, fewer only at the object's end.

        Raises: UnreachableError when the same call may succeed later; CorruptDataError when the object is
        missing, or no longer the one that was opened; PermissionDeniedError when we may not read it;
        ModelLoadError for any other failure of the medium; CapacityError when the view's memory cannot be had.
        """
        ...

    def close(self) -> None:
        """Release connections and descriptors; no read may be in progress. Idempotent."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A source whose reads can be cut short from another thread. Both methods are thread-safe and idempotent."""

    def interrupt(self, thread_id: int) -> None:
        """Make the `read_into` that this thread is in, or about to enter, fail soon with UnreachableError."""
        ...

    def allow(self, thread_id: int) -> None:
        """Let this thread read again."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that is better asked for much at once, and read in several calls."""

    def announce(self, offset: int, nbytes: int) -> None:
        """This thread will read these bytes next, front to back; if it does not, that costs it a connection."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the object that is fetched, verified and accepted as one.

    `digest` is the BLAKE3 of its bytes in hex; None: what arrives is taken as it is.
    """

    offset: int
    nbytes: int
    digest: str | None = None


class Sink(Protocol):
    """Where a download puts what it fetched. Called from several threads, each with its own pieces.

    For one piece: `view`, then bytes arrive in it (more than once when an origin fails or lies), then `accept`.
    `view` and `accept` come at most once per piece, and never at the same time for the same piece. Views are
    released after `accept`, and when the download gives up.
    """

    def view(self, piece: Piece) -> memoryview:
        """Memory of exactly `piece.nbytes`, writable, into which the bytes are received (the arena, a buffer)."""
        ...

    def accept(self, piece: Piece, view: memoryview) -> None:
        """`view` holds the verified bytes of `piece`: write them to disk, announce them, give the buffer back."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file below a location. `name` is relative, with `/`, and safe to join to a directory.

    `size_bytes` is None where the medium does not tell without opening the file. `sha256` is the digest that the
    medium promises, in hex (the hub's LFS files).
    """

    name: str
    size_bytes: int | None = None
    sha256: str | None = None
