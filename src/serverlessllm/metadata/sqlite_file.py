# SPDX-License-Identifier: Apache-2.0
"""One SQLite file as a revisioned key-value store with leases and a bounded change log. Blocking.

Every method is one transaction. Knows no event loop and no watcher: `sqlite.py` calls it from one thread.
Several processes may have the file open.

Durability: WAL with synchronous=FULL, so a commit is on disk before the call returns.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.errors import MetadataUnavailableError
from serverlessllm.metadata.store import (
    Change,
    CompactedError,
    Entry,
    LeaseExpiredError,
    UnreadableStoreError,
)

APPLICATION_ID: Final = 0x534C4C4D
"""In the file's header, so that another program's database is not taken for ours: "SLLM"."""
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 10.0
_DAMAGE: Final = ("malformed", "not a database", "corrupt")
_LAST_CHARACTER: Final = "\U0010ffff"

_SCHEMA: Final = """
CREATE TABLE entry (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER
) WITHOUT ROWID;
CREATE INDEX entry_by_lease ON entry (lease) WHERE lease IS NOT NULL;
CREATE TABLE change (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB);
CREATE TABLE lease (id INTEGER PRIMARY KEY AUTOINCREMENT, expires_at_s REAL NOT NULL);
CREATE TABLE counter (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO counter VALUES (0, 0);
"""


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes in order, and the revision up to which the log was searched for them."""

    changes: list[Change]
    scanned_revision: int


def _end(prefix: str) -> bytes | str:
    """What is greater than every key under the prefix, and than no other key beyond it."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return b""  # any blob is greater than any text
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)


class SqliteFile:
    """Keeps at least the last `max_changes` changes. Use from the thread that made it."""

    def __init__(self, path: Path, *, max_changes: int) -> None:
        """Open, or create with mode 0600. Raises UnreadableStoreError, MetadataUnavailableError."""
        self._path = path
        self._max_changes = max_changes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise MetadataUnavailableError(f"cannot open the metadata store {path}: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def get(self, key: str) -> Entry | None:
        """The entry, or None."""
        with self._errors():
            row = self._db.execute("SELECT key, value, revision FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else Entry(*row)

    def range(self, prefix: str) -> tuple[list[Entry], int]:
        """Entries under `prefix`, by key, and the store's revision, from one snapshot."""
        with self._transaction("DEFERRED"):
            rows = self._db.execute(
                "SELECT key, value, revision FROM entry WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, _end(prefix)),
            ).fetchall()
            return [Entry(*row) for row in rows], self._revision()

    def write(
        self,
        key: str,
        value: bytes,
        *,
        lease_id: int | None,
        now_s: float,
        expect_revision: int | None = None,
    ) -> int | None:
        """Put; with `expect_revision` (0 = absent) only if it still holds, else None. Raises LeaseExpiredError."""
        with self._transaction("IMMEDIATE"):
            if expect_revision is not None and self._revision_of(key) != expect_revision:
                return None
            if lease_id is not None:
                self._require_lease(lease_id, now_s)
            revision = self._log(key, value)
            self._db.execute("REPLACE INTO entry VALUES (?, ?, ?, ?)", (key, value, revision, lease_id))
            return revision

    def delete(self, key: str, *, expect_revision: int | None) -> bool:
        """Whether the key was there, with that revision, and was deleted."""
        with self._transaction("IMMEDIATE"):
            found = self._revision_of(key)
            if not found or expect_revision not in (None, found):
                return False
            self._delete(key)
            return True

    def changes(self, prefix: str, after_revision: int, limit: int) -> ChangeBatch:
        """Up to `limit` changes under `prefix` after that revision. Raises CompactedError."""
        with self._transaction("DEFERRED"):
            current, compacted = self._db.execute("SELECT revision, compacted FROM counter").fetchone()
            if not compacted <= after_revision <= current:
                raise CompactedError(
                    f"revision {after_revision} is outside the kept history ({compacted} to {current}) of "
                    f"{self._path}; read the range again and watch from there"
                )
            rows = self._db.execute(
                "SELECT key, value, revision FROM change WHERE revision > ? AND key >= ? AND key < ?"
                " ORDER BY revision LIMIT ?",
                (after_revision, prefix, _end(prefix), limit),
            ).fetchall()
        changes = [Change(*row) for row in rows]
        return ChangeBatch(changes, changes[-1].revision if len(changes) == limit else current)

    def create_lease(self, expires_at_s: float) -> int:
        """A new lease's id; ids are never used twice."""
        with self._transaction("IMMEDIATE"):
            row = self._db.execute("INSERT INTO lease (expires_at_s) VALUES (?)", (expires_at_s,))
            return int(row.lastrowid or 0)

    def extend_lease(self, lease_id: int, *, now_s: float, expires_at_s: float) -> None:
        """Move the expiry. Raises LeaseExpiredError."""
        with self._transaction("IMMEDIATE"):
            self._require_lease(lease_id, now_s)
            self._db.execute("UPDATE lease SET expires_at_s = ? WHERE id = ?", (expires_at_s, lease_id))

    def end_lease(self, lease_id: int) -> None:
        """Delete the lease and its entries; an unknown one is no error."""
        with self._transaction("IMMEDIATE"):
            self._end_lease(lease_id)

    def end_expired_leases(self, now_s: float) -> int:
        """How many leases had run out and were ended."""
        expired = "SELECT id FROM lease WHERE expires_at_s <= ?"
        with self._errors():
            if self._db.execute(expired, (now_s,)).fetchone() is None:
                return 0  # the usual case takes no write lock
        with self._transaction("IMMEDIATE"):
            ids = [row[0] for row in self._db.execute(expired, (now_s,)).fetchall()]
            for lease_id in ids:
                self._end_lease(lease_id)
            return len(ids)

    def data_version(self) -> int:
        """A number that differs from the last call's when another connection has written."""
        with self._errors():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Let go of the file; its WAL is folded in when no one else has it open."""
        self._db.close()

    # -- inside a transaction ------------------------------------------------------------------------

    def _revision(self) -> int:
        return int(self._db.execute("SELECT revision FROM counter").fetchone()[0])

    def _revision_of(self, key: str) -> int:
        row = self._db.execute("SELECT revision FROM entry WHERE key = ?", (key,)).fetchone()
        return 0 if row is None else int(row[0])

    def _log(self, key: str, value: bytes | None) -> int:
        """Take the next revision, record the change under it, and trim the log."""
        revision = self._revision() + 1
        self._db.execute("INSERT INTO change VALUES (?, ?, ?)", (revision, key, value))
        compacted = max(revision - self._max_changes, 0)
        self._db.execute("DELETE FROM change WHERE revision <= ?", (compacted,))
        self._db.execute(
            "UPDATE counter SET revision = ?, compacted = max(compacted, ?)", (revision, compacted)
        )
        return revision

    def _delete(self, key: str) -> None:
        self._db.execute("DELETE FROM entry WHERE key = ?", (key,))
        self._log(key, None)

    def _require_lease(self, lease_id: int, now_s: float) -> None:
        row = self._db.execute("SELECT expires_at_s FROM lease WHERE id = ?", (lease_id,)).fetchone()
        if row is None or row[0] <= now_s:
            raise LeaseExpiredError(f"lease {lease_id} has expired; take a new one and put its entries again")

    def _end_lease(self, lease_id: int) -> None:
        rows = self._db.execute("SELECT key FROM entry WHERE lease = ? ORDER BY key", (lease_id,)).fetchall()
        for (key,) in rows:
            self._delete(key)
        self._db.execute("DELETE FROM lease WHERE id = ?", (lease_id,))

    # -- opening, transactions, errors -------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._errors():
            self._use_wal()
            self._db.execute("PRAGMA synchronous = FULL")
            problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise self._unreadable(str(problem))
        with self._transaction("IMMEDIATE"):  # two processes may create it at once
            is_empty = self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None
            if is_empty and self._pragma("application_id") == 0:
                self._create()
            application_id, version = self._pragma("application_id"), self._pragma("user_version")
        if application_id != APPLICATION_ID:
            raise self._unreadable("it is another program's database")
        if version != SCHEMA_VERSION:
            raise self._unreadable(f"its schema is version {version}, this program knows {SCHEMA_VERSION}")

    def _use_wal(self) -> None:
        """Switch on the write-ahead log. The switch needs the file alone and does not wait for others itself."""
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)

    def _create(self) -> None:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _unreadable(self, why: str) -> UnreadableStoreError:
        return UnreadableStoreError(
            f"metadata store {self._path} cannot be used: {why}; "
            "restore it from a backup, or move it away to start empty"
        )

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        with self._errors():
            self._db.execute(f"BEGIN {mode}")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours: damage is for an operator, the rest (locked, full disk, I/O) may pass."""
        try:
            yield
        except sqlite3.Error as error:
            if any(word in str(error) for word in _DAMAGE):
                raise self._unreadable(str(error)) from error
            raise MetadataUnavailableError(f"metadata store {self._path}: {error}") from error
