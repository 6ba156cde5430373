# SPDX-License-Identifier: Apache-2.0
"""Waits on behalf of clients: until a model is awake, or an agent answers, telling streams meanwhile what goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from serverlessllm.clock import Clock
from serverlessllm.config import OrchestratorConfig
from serverlessllm.errors import HoldDeadlineError, NoAgentError, SllmError
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.exchange import Exchange
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.replicas import Replica
from serverlessllm.orchestrator.wake import Wakes

COMMENT_EVERY_S: Final = 0.5

T = TypeVar("T")


class Holding:
    """For all requests of a process."""

    def __init__(self, wakes: Wakes, agents: Agents, config: OrchestratorConfig, clock: Clock) -> None:
        self._wakes = wakes
        self._agents = agents
        self._config = config
        self._clock = clock

    async def replica(self, exchange: Exchange, model: str, prompt: Prompt) -> Replica:
        """Wait until the model is awake. Raises its error, or HoldDeadlineError and NoAgentError when it is late.

        Bytes that arrive from elsewhere put the deadline off: a large model takes longer, a stalled one does not.
        """
        exchange.timeline.state = "held"
        joined_s = self._clock.monotonic_s()
        by_s = None if exchange.has_begun else exchange.deadlines.first_token_by_s
        with self._wakes.hold(model, prompt.num_tokens, by_s) as wake:
            num_progress = 0
            while not await wake.settled(self._pause_s(exchange)):
                if wake.num_progress != num_progress:
                    num_progress = wake.num_progress
                    exchange.be_patient()
                if exchange.waited_s >= self._config.hold_timeout_s:
                    raise self.late(exchange)
                if exchange.is_stream:
                    await exchange.comment(self._wakes.progress(wake))
            woken = wake.result()
        if woken.load is not None and not exchange.has_begun:
            waited_ms = (self._clock.monotonic_s() - joined_s) * 1e3
            timeline = exchange.timeline
            timeline.note_wake(woken.load, waited_ms)
            timeline.place_ms = min(woken.place_ms, timeline.queue_ms)
            timeline.queue_ms -= timeline.place_ms
        return woken.replica

    def _pause_s(self, exchange: Exchange) -> float:
        """Until the next comment is due, or the deadline."""
        left_s = max(0.0, self._config.hold_timeout_s - exchange.waited_s)
        if not exchange.is_stream:
            return left_s
        if exchange.is_open:
            return min(left_s, COMMENT_EVERY_S)
        return min(left_s, max(0.0, self._config.hold_silently_s - exchange.elapsed_s))

    def late(self, exchange: Exchange) -> SllmError:
        """What a request gets whose model does not wake in time."""
        timeout_s, model = self._config.hold_timeout_s, exchange.timeline.model
        if not self._agents.alive():
            return NoAgentError(
                f"no agent that could run {model} was alive within {timeout_s:g} s; start one"
            )
        return HoldDeadlineError(f"{model} did not wake within {timeout_s:g} s (orchestrator.hold_timeout_s)")

    async def with_comments(self, exchange: Exchange, model: str, work: Awaitable[T]) -> T:
        """Await `work`, telling a stream what is done for it; one that has no headers yet, after a while."""
        task = asyncio.ensure_future(work)
        silent_s = max(0.0, self._config.hold_silently_s - exchange.elapsed_s)
        pause_s = COMMENT_EVERY_S if exchange.is_open else silent_s
        try:
            while not (await asyncio.wait({task}, timeout=pause_s))[0]:
                await exchange.comment(self._wakes.loading(model) or "prefill")
                pause_s = COMMENT_EVERY_S
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
