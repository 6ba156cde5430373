# SPDX-License-Identifier: Apache-2.0
"""What the NVMe tier remembers of each revision beside its immutable artifact: origins, and when it was last used.

One small JSON file in the artifacts' directory. An unreadable one counts as empty: then no copy has an origin, and
nothing is evicted by mistake.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

RECORD_NAME: Final = ".nvme.json"


class CopyRecord(msgspec.Struct, frozen=True):
    """`origins` can bring the revision back; `last_used_s` is Unix time."""

    origins: list[str]
    last_used_s: float


class NvmeRecord:
    """The file of one artifacts' directory; one process writes it, any may read. Safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / RECORD_NAME
        self._lock = threading.Lock()

    def read(self) -> dict[str, CopyRecord]:
        """Revision → what is known of it."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, CopyRecord])
        except (OSError, msgspec.MsgspecError):
            return {}

    def note_use(self, revision: str, origins: Sequence[str], *, now_s: float) -> None:
        """The revision was read now; origins that are given replace the known ones. Raises OSError."""
        with self._lock:
            records = self.read()
            known = records.get(revision)
            kept = list(origins) or (known.origins if known is not None else [])
            records[revision] = CopyRecord(kept, now_s)
            self._write(records)

    def forget(self, revision: str) -> None:
        """The revision has no copy here any more. Raises OSError."""
        with self._lock:
            records = self.read()
            if records.pop(revision, None) is not None:
                self._write(records)

    def _write(self, records: dict[str, CopyRecord]) -> None:
        aside = self._path.with_suffix(".tmp")
        aside.write_bytes(msgspec.json.encode(records, order="sorted"))
        aside.replace(self._path)
