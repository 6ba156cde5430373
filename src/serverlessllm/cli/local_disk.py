# SPDX-License-Identifier: Apache-2.0
"""A data directory's disk without a server: the directory is locked, so that none can start meanwhile.

An ingest service of its own may be at work in the directory all the same; what it works on is locked by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from serverlessllm.app.data_dir import DataDir
from serverlessllm.clock import SystemClock
from serverlessllm.config import Config
from serverlessllm.errors import ConfigError, ConflictError
from serverlessllm.loader.disk.cleaning import choose_cleaning
from serverlessllm.loader.disk.inventory import DiskInventory
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord, decode
from serverlessllm.metadata.sqlite import MAX_CHANGES
from serverlessllm.metadata.sqlite_file import SqliteFile
from serverlessllm.wire.disk import CleanDisk, CleanedView, DiskCleaned, DiskStatus, DiskView

NO_AGENT: Final = "–"


class LocalDisk:
    """Answers as `sdk.orchestrator.Client` does, for this one directory. Use in `local_disk`."""

    def __init__(self, config: Config) -> None:
        self._data_path = config.data_path
        tier = NvmeTier(self._data_path / "artifacts", config.loader.nvme_budget_bytes, SystemClock())
        self._inventory = DiskInventory(self._data_path, tier)
        self._models, self._is_settled = _registered(self._data_path / "metadata.sqlite")

    def disks(self) -> DiskView:
        """What lies there. Which models exist is told where this directory holds the metadata."""
        return DiskView(nodes=[self._status()])

    def clean_disks(self, wish: CleanDisk) -> CleanedView:
        """Remove what nobody needs. Raises ConflictError when it is not known which artifacts those are."""
        if wish.artifacts or wish.to_bytes is not None:
            self._check_known()
        before = self._status()
        chosen = choose_cleaning(before.copies, wish)
        after = before
        left_bytes = before.held_bytes - sum(copy.nbytes for copy in chosen)
        if not wish.dry_run:
            paths = [(copy, self._inventory.take_away(copy)) for copy in chosen]
            chosen = [copy for copy, path in paths if path is not None and self._inventory.delete(path)]
            after = self._status()
            left_bytes = after.held_bytes
        is_reached = wish.to_bytes is None or left_bytes <= wish.to_bytes
        return CleanedView(nodes=[DiskCleaned(removed=chosen, disk=after, is_reached=is_reached)])

    def _check_known(self) -> None:
        if self._models is None:
            raise ConflictError(
                f"{self._data_path} holds no metadata, so it is not known which artifacts are registered; ask the "
                "orchestrator: `sllm disk clean --url URL`"
            )
        if not self._is_settled:
            raise ConflictError(
                f"a model in {self._data_path} was being registered when its server stopped, and its artifact may be "
                "one that looks unused; start `sllm serve` to finish it first"
            )

    def _status(self) -> DiskStatus:
        return self._inventory.status(NO_AGENT, models=self._models)


@contextmanager
def local_disk(config: Config) -> Iterator[LocalDisk]:
    """The disk of the configuration's data directory, kept from servers meanwhile.

    Raises: ConfigError when there is no such directory; ConflictError when a server has it.
    """
    path = config.data_path
    if not (path / "artifacts").is_dir():
        raise ConfigError(f"{path} is no data directory; name one with --data-dir", param="data_dir")
    owner = DataDir(path)
    try:
        yield LocalDisk(config)
    finally:
        owner.close()


def _registered(path: Path) -> tuple[dict[str, list[str]] | None, bool]:
    """Revision → models, None when the metadata lie elsewhere; and whether no model is still being registered."""
    if not path.is_file():
        return None, True
    file = SqliteFile(path, max_changes=MAX_CHANGES)
    try:
        entries, _ = file.range(Keys.MODELS)
    finally:
        file.close()
    records = [decode(ModelRecord, entry) for entry in entries]
    names: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.revision is not None:
            names[record.revision].append(record.name)
    return dict(names), all(record.state != "registering" for record in records)
