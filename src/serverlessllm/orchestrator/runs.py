# SPDX-License-Identifier: Apache-2.0
"""What is asked of an agent about a run that it has: its events from some place on, and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from serverlessllm.errors import SllmError, UnreachableError
from serverlessllm.orchestrator.agent_link import AgentLink
from serverlessllm.orchestrator.infer_head import InferHead
from serverlessllm.orchestrator.upstream import UpstreamResponse
from serverlessllm.wire.run_name import RunName

ASK_TIMEOUT_S: Final = 3.0
"""An agent that is well answers in milliseconds: what a client waits for must not depend on one that is not."""

_log = logging.getLogger(__name__)


class Runs:
    """For one event loop."""

    def __init__(self, head: InferHead) -> None:
        self._head = head
        self._ends: set[asyncio.Task[None]] = set()
        self.is_stopping = False

    async def attach(self, link: AgentLink, run: RunName, from_seq: int) -> UpstreamResponse:
        """The events after `from_seq`; close it. Any status. Raises: UnreachableError, WireError."""
        path = f"/infer/{run.request_id}?from={from_seq}"
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await link.upstream.send("GET", path, self._head.run_lines(run))
        except TimeoutError as error:
            raise UnreachableError(f"agent {link.address} did not answer", source="agent") from error

    def end(self, link: AgentLink, run: RunName) -> None:
        """Have the agent end the run and all before it, also one that has not arrived yet. Returns at once.

        Not while we stop: clients come back for their streams, at another orchestrator.
        """
        if not self.is_stopping and link.is_alive:
            task = asyncio.create_task(self._end(link, run), name=f"end {run.request_id}")
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    async def stop(self) -> None:
        """Let what was asked for go out."""
        if self._ends:
            await asyncio.wait(set(self._ends), timeout=ASK_TIMEOUT_S)

    async def _end(self, link: AgentLink, run: RunName) -> None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                path = f"/infer/{run.request_id}"
                response = await link.upstream.send("DELETE", path, self._head.run_lines(run))
                try:
                    await response.drain()
                finally:
                    response.close()
        except (SllmError, TimeoutError) as error:
            # Its grace ends it; and the agent may be the very one that was given up.
            _log.debug("run %s was not ended at %s: %s", run.request_id, link.address, error)
