# SPDX-License-Identifier: Apache-2.0
"""The disks of all nodes: what agents say lies there, and which of it models are registered with."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import msgspec

from serverlessllm.errors import ConflictError
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.models import Models
from serverlessllm.wire.disk import CleanDisk, CleanedView, CleanNode, DiskStatus, DiskView


class Disks:
    """Asks every living agent; raises what the first of them says that fails."""

    def __init__(self, models: Models, agents: Agents, is_settled: Callable[[], bool]) -> None:
        """`is_settled`: no model is on its way to an artifact that is not written down yet."""
        self._models = models
        self._agents = agents
        self._is_settled = is_settled

    async def view(self) -> DiskView:
        """`GET /admin/disk`. Raises UnreachableError."""
        found = await asyncio.gather(*(link.client.disk() for link in self._agents.alive()))
        names = self._names()
        return DiskView(nodes=[_named(status, names) for status in found])

    async def clean(self, wish: CleanDisk) -> CleanedView:
        """`POST /admin/disk/clean`.

        Raises: ConflictError when artifacts are to go while some model is being fetched or converted: its own may
        be among them; UnreachableError.
        """
        if (wish.artifacts or wish.to_bytes is not None) and not self._is_settled():
            raise ConflictError(
                "a model is being fetched or converted, and its artifact may be one that looks unused; try again "
                "when that is done, see `sllm model list`"
            )
        request = CleanNode(wish=wish, models=self._names())
        found = await asyncio.gather(*(link.client.clean_disk(request) for link in self._agents.alive()))
        return CleanedView(nodes=list(found))

    def _names(self) -> dict[str, list[str]]:
        """Revision → models."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        for record in self._models.all():
            if record.revision is not None:
                names[record.revision].append(record.name)
        return dict(names)


def _named(status: DiskStatus, names: dict[str, list[str]]) -> DiskStatus:
    copies = [msgspec.structs.replace(copy, models=names.get(copy.revision, [])) for copy in status.copies]
    return msgspec.structs.replace(status, copies=copies)
