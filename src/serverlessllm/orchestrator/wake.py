# SPDX-License-Identifier: Apache-2.0
"""Single flight: however many requests wait for a model, one wake-up runs, and all share its result.

    state     → entered by                     what a waiter sees
    running   → the first `hold` of a model    `progress` to show meanwhile
    settled   → the wake-up ended              the replica, or its error
    cancelled → the last waiter left           nobody is there to see it

Knows no HTTP: a waiter's deadline and what it tells its client are the proxy's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serverlessllm.clock import Clock
from serverlessllm.errors import QueueFullError, ShuttingDownError, SllmError
from serverlessllm.orchestrator.agents import Agents
from serverlessllm.orchestrator.hold_queue import HoldQueue
from serverlessllm.orchestrator.waker import Waker, Woken
from serverlessllm.telemetry.metrics import OrchestratorMetrics


class Wake:
    """One wake-up; get it from `Wakes.hold`."""

    def __init__(self, model: str, began_s: float) -> None:
        self.model = model
        self.began_s = began_s
        self.first_token_by_s: float | None = None
        self.num_waiters = 0
        self.text = "waking"
        self.num_progress = 0
        self._done_bytes = 0
        self.task: asyncio.Task[Woken] | None = None
        self.cancelled_by: SllmError | None = None

    def report(self, text: str, *, done_bytes: int = 0) -> None:
        """What the wake-up is doing, in a few words; bytes that arrive from elsewhere are progress."""
        self.text = text
        if done_bytes != self._done_bytes:
            self._done_bytes = done_bytes
            self.num_progress += 1

    def want_by(self, first_token_by_s: float | None) -> None:
        """A waiter wants its first token then; the earliest counts."""
        known = self.first_token_by_s
        if first_token_by_s is not None and (known is None or first_token_by_s < known):
            self.first_token_by_s = first_token_by_s

    async def settled(self, timeout_s: float) -> bool:
        """Wait for the end, at most `timeout_s`; cancelling this does not cancel the wake-up."""
        if self.task is None:
            return True
        done, _ = await asyncio.wait({self.task}, timeout=timeout_s)
        return bool(done)

    def result(self) -> Woken:
        """After `settled`: the replica. Raises the wake-up's error."""
        if self.task is None or self.task.cancelled():
            raise self.cancelled_by or ShuttingDownError(
                f"the wake-up of {self.model} was cancelled; try again"
            )
        error = self.task.exception()
        if isinstance(error, SllmError):
            raise error.with_traceback(None)
        return self.task.result()


class Wakes:
    """Model → its running wake-up. `max_held` bounds the waiters per model, `max_total` over all models."""

    def __init__(
        self,
        waker: Waker,
        agents: Agents,
        metrics: OrchestratorMetrics,
        max_held: int,
        max_total: int,
        clock: Clock,
    ) -> None:
        self._waker = waker
        self._agents = agents
        self._metrics = metrics
        self._clock = clock
        self._queue = HoldQueue(max_held, max_total, self._eta_s, clock)
        self._running: dict[str, Wake] = {}

    @contextmanager
    def hold(
        self, model: str, num_prompt_tokens: int = 0, first_token_by_s: float | None = None
    ) -> Iterator[Wake]:
        """Join the model's wake-up, or start it for a prompt of about so many tokens. The last to leave cancels it.

        `first_token_by_s` (monotonic): when this waiter wants its first token. Raises QueueFullError when too many
        wait already.
        """
        wake = self._running.get(model)
        try:
            if wake is None:
                self._queue.enter(model, 0, self._clock.monotonic_s())
                wake = self._running[model] = self._start(model, num_prompt_tokens)
            else:
                self._queue.enter(model, wake.num_waiters, wake.began_s)
        except QueueFullError:
            self._metrics.rejected.labels(model).inc()
            raise
        wake.want_by(first_token_by_s)
        wake.num_waiters += 1
        gauge = self._metrics.held_requests.labels(model)
        gauge.inc()
        try:
            yield wake
        finally:
            gauge.dec()
            self._queue.leave()
            wake.num_waiters -= 1
            if wake.num_waiters == 0 and wake.task is not None and not wake.task.done():
                self._forget(wake)
                wake.task.cancel()

    def _start(self, model: str, num_prompt_tokens: int) -> Wake:
        wake = Wake(model, self._clock.monotonic_s())
        waking = self._waker.wake(model, wake.report, num_prompt_tokens, lambda: wake.first_token_by_s)
        wake.task = asyncio.create_task(waking, name=f"wake {model}")
        wake.task.add_done_callback(lambda task: self._ended(wake, task))
        return wake

    def _ended(self, wake: Wake, task: asyncio.Task[Woken]) -> None:
        self._forget(wake)
        outcome = _outcome(task)
        self._metrics.wakes.labels(outcome).inc()
        if outcome == "ok":
            self._queue.took(self._clock.monotonic_s() - wake.began_s)

    def _forget(self, wake: Wake) -> None:
        if self._running.get(wake.model) is wake:
            del self._running[wake.model]

    def _eta_s(self, model: str) -> float | None:
        return max((load.eta_s for load in self._agents.loads_of(model) if load.eta_s > 0), default=None)

    def num_held(self, model: str) -> int:
        """Requests that wait for the model."""
        wake = self._running.get(model)
        return 0 if wake is None else wake.num_waiters

    def progress(self, wake: Wake) -> str:
        """What to tell a waiting client, e.g. `loading 41% eta 0.8s`."""
        return self.loading(wake.model) or wake.text

    def loading(self, model: str) -> str:
        """How far the model's load is; empty when there is none, or all bytes are there."""
        for load in self._agents.loads_of(model):
            if load.done_bytes < load.total_bytes:
                percent = 100 * load.done_bytes // load.total_bytes
                return f"loading {percent}% eta {max(0.0, load.eta_s):.1f}s"
        return ""

    def cancel(self, model: str, error: SllmError) -> None:
        """End the model's wake-up, if one runs: its waiters get `error`."""
        wake = self._running.get(model)
        if wake is not None and wake.task is not None:
            wake.cancelled_by = error
            self._forget(wake)
            wake.task.cancel()

    async def stop(self) -> None:
        """Cancel every wake-up; its waiters get ShuttingDownError."""
        tasks = [wake.task for wake in self._running.values() if wake.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(task: asyncio.Task[Woken]) -> str:
    """As `sllm_wakes` counts it."""
    if task.cancelled():
        return "cancelled"
    return "ok" if task.exception() is None else "failed"
