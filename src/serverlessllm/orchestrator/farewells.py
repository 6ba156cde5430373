# SPDX-License-Identifier: Apache-2.0
"""What is done for an agent that says it is stopping: its streams are moved to others, where there are any.

Of several orchestrators the leader does it. What does not move ends where it runs, which the agent waits for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serverlessllm.errors import SllmError
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.moves import Moves

log = logging.getLogger(__name__)


class Farewells:
    """`begin` for each agent that stops; `stop` at the end."""

    def __init__(self, agents: Agents, moves: Moves, is_leader: Callable[[], bool]) -> None:
        self._agents = agents
        self._moves = moves
        self._is_leader = is_leader
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, link: AgentLink) -> None:
        """Move its streams in the background; nothing where no other agent takes work."""
        if not self._is_leader() or all(other.is_drained for other in self._agents.alive()):
            return
        task = asyncio.create_task(self._evacuate(link), name=f"evacuate {link.agent_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Begin no further move."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _evacuate(self, link: AgentLink) -> None:
        try:
            evacuated = await self._moves.evacuate(link.agent_id)
        except SllmError as error:
            log.warning("%s is stopping, its streams end there: %s", link.agent_id, error.message)
        else:
            num_moved = sum(view.result.state == "moved" for view in evacuated.moves)
            log.info(
                "%s is stopping: %d streams moved, %d left", link.agent_id, num_moved, evacuated.num_left
            )
