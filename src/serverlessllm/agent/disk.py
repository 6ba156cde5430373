# SPDX-License-Identifier: Apache-2.0
"""What lies on this node's disk, and its cleaning while loads and replicas go on.

Knows which revisions the node needs; not which models exist: the caller says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from serverlessllm.loader.disk.cleaning import choose_cleaning
from serverlessllm.loader.disk.inventory import DiskInventory
from serverlessllm.loader.loader import Loader
from serverlessllm.types import is_revision
from serverlessllm.wire.disk import CleanNode, DiskCleaned, DiskCopy, DiskStatus


def revisions_on_disk(artifacts: Path) -> list[str]:
    """The revisions whose artifacts lie whole in the directory; none while there is no such directory."""
    try:
        return sorted(path.name for path in artifacts.iterdir() if is_revision(path.name))
    except OSError:
        return []


class NodeDisk:
    """For one event loop, that of the loads."""

    def __init__(
        self, agent_id: str, inventory: DiskInventory, loader: Loader, bound: Callable[[], Iterable[str]]
    ) -> None:
        """`bound`: revisions of replicas, whatever they are doing."""
        self._agent_id = agent_id
        self._inventory = inventory
        self._loader = loader
        self._bound = bound
        self._cleaning = asyncio.Lock()

    async def status(self) -> DiskStatus:
        """`GET /disk`. Models are not told: no agent knows them."""
        return await self._status(None)

    async def clean(self, request: CleanNode) -> DiskCleaned:
        """`POST /disk/clean`: one at a time."""
        wish = request.wish
        async with self._cleaning:
            before = await self._status(request.models)
            chosen = choose_cleaning(before.copies, wish)
            if wish.dry_run:
                left_bytes = before.held_bytes - sum(copy.nbytes for copy in chosen)
                is_reached = wish.to_bytes is None or left_bytes <= wish.to_bytes
                return DiskCleaned(removed=chosen, disk=before, is_reached=is_reached)
            removed = [copy for copy in chosen if await self._remove(copy)]
            after = await self._status(request.models)
        is_reached = wish.to_bytes is None or after.held_bytes <= wish.to_bytes
        return DiskCleaned(removed=removed, disk=after, is_reached=is_reached)

    async def _remove(self, copy: DiskCopy) -> bool:
        # No await between the question and the renaming: a load begins in this loop too, before or after both.
        if copy.kind in ("artifact", "fetching") and copy.revision in self._in_use():
            return False
        path = self._inventory.take_away(copy)
        return path is not None and await asyncio.to_thread(self._inventory.delete, path)

    def _in_use(self) -> set[str]:
        return self._loader.in_use() | set(self._bound())

    async def _status(self, models: dict[str, list[str]] | None) -> DiskStatus:
        in_use = self._in_use()
        return await asyncio.to_thread(
            self._inventory.status,
            self._agent_id,
            in_use=in_use,
            models=models,
            is_verified=self._loader.is_verified_on_disk,
        )
