# SPDX-License-Identifier: Apache-2.0
"""A data directory's disk as people see it: artifacts, what is on its way to be some, and what may be thrown away.

Beside the NVMe tier these are the sources that an ingest service fetched (`ingest/fetch/`). Who works on a directory
holds a lock on it, whatever its process. Blocks on the file system; decides nothing.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Final

from serverlessllm.checkpoint import staging
from serverlessllm.loader.disk.tier import BAD_NAME, NvmeCopy, NvmeTier, held_bytes
from serverlessllm.types import is_revision
from serverlessllm.wire.disk import DiskCopy, DiskStatus

REVISION_CHARS: Final = 32
_ASIDE: Final = f"{staging.PREFIX}removed-"
IsVerified = Callable[[str], bool]
"""Whether the revision's files on disk were checked and have not changed since."""


class DiskInventory:
    """What lies below one data directory. `status` reads; `take_away`, then `delete` removes."""

    def __init__(self, data_path: Path, tier: NvmeTier) -> None:
        self._data_path = data_path
        self._tier = tier

    def status(
        self,
        agent_id: str,
        *,
        in_use: Container[str] = (),
        models: Mapping[str, list[str]] | None = None,
        is_verified: IsVerified | None = None,
    ) -> DiskStatus:
        """All copies. `in_use`: revisions that the process needs beyond the locks; `models`: revision → names."""
        copies = [self._described(copy, in_use, models, is_verified) for copy in self._copies()]
        usage = shutil.disk_usage(self._data_path)
        return DiskStatus(
            agent_id=agent_id,
            directory=str(self._data_path),
            budget_bytes=self._tier.budget_bytes,
            held_bytes=sum(copy.nbytes for copy in copies),
            room_bytes=self._tier.room_bytes(),
            free_bytes=usage.free,
            total_bytes=usage.total,
            copies=copies,
        )

    def take_away(self, copy: DiskCopy) -> Path | None:
        """Hide a copy from everybody who begins from now on, at once; what to `delete`, or None when it must stay.

        The caller knows that nobody in its own process uses it, and lets none begin meanwhile.
        """
        path = self._data_path / copy.path
        if copy.kind not in ("artifact", "fetching"):
            return path
        if copy.kind == "fetching" and staging.is_owned(path):
            return None
        aside = path.with_name(f"{_ASIDE}{secrets.token_hex(8)}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
        if copy.kind == "artifact":
            self._tier.forget(copy.revision)
        return aside

    def delete(self, path: Path) -> bool:
        """Remove what `take_away` returned; False when somebody has begun to work on it."""
        if path.name.startswith(_ASIDE):
            shutil.rmtree(path, ignore_errors=True)  # nobody can have begun, though a sweep may help
            return True
        if path.is_dir():
            return staging.remove_unowned(path)
        path.unlink(missing_ok=True)
        return True

    def _copies(self) -> list[NvmeCopy]:
        found: list[NvmeCopy] = []
        for copy in self._tier.copies():
            found += _quarantined(copy.path) if copy.path.name == BAD_NAME else [copy]
        fetched = self._data_path / "ingest" / "fetch"
        areas = sorted(path for path in fetched.iterdir() if path.is_dir()) if fetched.is_dir() else []
        return found + [
            NvmeCopy(path, "source", "", held_bytes(path), path.stat().st_mtime) for path in areas
        ]

    def _described(
        self,
        copy: NvmeCopy,
        in_use: Container[str],
        models: Mapping[str, list[str]] | None,
        is_verified: IsVerified | None,
    ) -> DiskCopy:
        is_artifact = copy.kind == "artifact"
        is_needed = copy.kind in ("artifact", "fetching") and copy.revision in in_use
        return DiskCopy(
            path=str(copy.path.relative_to(self._data_path)),
            kind=copy.kind,
            revision=copy.revision,
            nbytes=copy.nbytes,
            last_used_s=copy.last_used_s,
            origins=list(copy.origins),
            models=None if models is None else models.get(copy.revision, []),
            is_in_use=is_needed or (not is_artifact and staging.is_owned(copy.path)),
            is_verified=is_verified(copy.revision) if is_artifact and is_verified is not None else None,
        )


def _quarantined(directory: Path) -> list[NvmeCopy]:
    """Each file by itself; its name begins with the revision that it was of."""
    found: list[NvmeCopy] = []
    for path in sorted(directory.iterdir()):
        revision = path.name[:REVISION_CHARS]
        status = path.stat()
        found.append(
            NvmeCopy(
                path,
                "quarantined",
                revision if is_revision(revision) else "",
                status.st_blocks * 512,
                status.st_mtime,
            )
        )
    return found
