# SPDX-License-Identifier: Apache-2.0
"""The streamed answers of one agent by their names, so that they outlive the connections that asked for them.

    an answer   its reader leaves     somebody attaches   `cancel`    grace is over        it ends
    read        → orphan              the later one reads → ended     –                    → kept
    orphan      –                     → read              → ended     → ended, forgotten   → kept
    kept        –                     → kept              forgotten   forgotten            –

Runs of one request are numbered (`hop`); a later one ends the earlier ones, and one that was cancelled before it came
is refused. A fresh request under the name of another one takes the name; the other goes on while somebody reads it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from serverlessllm.agent.inference import Inference
from serverlessllm.agent.running_answer import RunningAnswer
from serverlessllm.errors import NotFoundError, StaleAttemptError
from serverlessllm.telemetry.metrics import AgentMetrics
from serverlessllm.wire.migrate import RunView
from serverlessllm.wire.run_name import RunName

MAX_ENDED_BYTES: Final = 64 << 20
"""Of ended answers that are kept for a reader that may come back; above it the oldest are forgotten."""
MAX_FENCES: Final = 4096
"""Cancelled runs that are remembered, to refuse them should they come late."""

READER_COMES_S: Final = 10.0
"""How long an answer that came from another agent waits for its reader."""

_Key = tuple[str, str]
"""Tenant and request id."""


class RunningAnswers:
    """For one event loop. `grace_s` is how long an orphan runs, and an ended answer is kept."""

    def __init__(self, grace_s: float, metrics: AgentMetrics) -> None:
        self._grace_s = grace_s
        self._metrics = metrics
        self._by_key: dict[_Key, RunningAnswer] = {}
        self._all: set[RunningAnswer] = set()
        self._timers: dict[RunningAnswer, asyncio.TimerHandle] = {}
        self._orphans: set[RunningAnswer] = set()
        self._ended: OrderedDict[RunningAnswer, None] = OrderedDict()
        self._ended_bytes = 0
        self._fences: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._cancels: set[asyncio.Task[None]] = set()

    @property
    def num_running(self) -> int:
        """Answers that have not ended."""
        return len(self._all) - len(self._ended)

    def start(self, inference: Inference, note: Callable[[RunningAnswer], None]) -> RunningAnswer:
        """Run `inference` under its name; `note` is called at its end.

        Raises StaleAttemptError when it was cancelled already, or a later run of the request is here.
        """
        headers = inference.headers
        key = (headers.tenant, headers.request_id)
        known = self._by_key.get(key)
        is_same = known is not None and known.headers.seed == headers.seed
        if headers.hop <= self._fences.get((*key, headers.seed), -1) or (
            known is not None and is_same and headers.hop < known.headers.hop
        ):
            raise StaleAttemptError(
                f"run {headers.hop} of request {headers.request_id} is over: it was cancelled, or a later one came",
                source="agent",
            )
        if known is not None and is_same and headers.hop == known.headers.hop:
            return known  # sent twice, because a kept connection broke
        if known is not None and (is_same or not known.num_readers):
            self._end(known, "a later run took its place")

        def ended(answer: RunningAnswer) -> None:
            note(answer)
            self._keep(answer)

        answer = RunningAnswer(inference, ended)
        self._by_key[key] = answer
        self._all.add(answer)
        answer.start()
        return answer

    def find(self, name: RunName) -> RunningAnswer:
        """Raises NotFoundError when nothing of that name runs or is kept here."""
        answer = self._by_key.get((name.tenant, name.request_id))
        if answer is None or (name.seed and name.seed != answer.headers.seed):
            raise NotFoundError(f"request {name.request_id[:128]} does not run here", source="agent")
        return answer

    def views(self) -> list[RunView]:
        """Of all that run."""
        return [
            RunView(
                tenant=answer.headers.tenant,
                request_id=answer.headers.request_id,
                seed=answer.headers.seed,
                hop=answer.headers.hop,
                model=answer.headers.model,
                revision=answer.headers.revision,
                prompt_tokens=len(inference.prompt_ids),
                num_tokens=inference.num_tokens,
                is_read=answer.num_readers > 0,
            )
            for answer in self._all
            if (inference := answer.inference) is not None
        ]

    def expect_reader(self, answer: RunningAnswer) -> None:
        """It came from another agent, and its reader is on the way: without him it is ended."""

        def look() -> None:
            self._timers.pop(answer, None)
            if not answer.num_readers and not answer.is_ended:
                self._end(answer, "nobody came for it")

        self._timers[answer] = asyncio.get_running_loop().call_later(READER_COMES_S, look)

    @asynccontextmanager
    async def reading(self, answer: RunningAnswer) -> AsyncIterator[None]:
        """Somebody is attached for the block. Whoever leaves last leaves an orphan behind, if it still runs."""
        answer.num_readers += 1
        if answer in self._orphans:
            self._adopted(answer, "attached")
        try:
            yield
        finally:
            answer.num_readers -= 1
            if not answer.num_readers and not answer.is_ended:
                self._orphaned(answer)

    async def cancel(self, name: RunName) -> bool:
        """End the runs of a request up to `name.hop`, also those that are still to come; whether there was one."""
        key = (name.tenant, name.request_id)
        fenced = (*key, name.seed)
        self._fences[fenced] = max(name.hop, self._fences.pop(fenced, -1))
        if len(self._fences) > MAX_FENCES:
            self._fences.popitem(last=False)
        answer = self._by_key.get(key)
        if answer is None or answer.headers.seed != name.seed or answer.headers.hop > name.hop:
            return False
        await self._cancel(answer, "its client left")
        return True

    async def drop(self, answer: RunningAnswer) -> None:
        """It goes on elsewhere: end it in silence, and keep nothing of it."""
        await answer.cancel()
        self._forget(answer)

    async def stop(self) -> None:
        """End all, in silence: their readers see a cut, and go on elsewhere."""
        for timer in self._timers.values():
            timer.cancel()
        for answer in list(self._all):
            await answer.cancel()
        for answer in list(self._all):
            self._forget(answer)

    def _orphaned(self, answer: RunningAnswer) -> None:
        self._orphans.add(answer)
        self._metrics.orphans.set(len(self._orphans))
        if self._grace_s <= 0:
            self._expire(answer)
        else:
            self._after_grace(answer, self._expire)

    def _adopted(self, answer: RunningAnswer, outcome: str) -> None:
        self._orphans.discard(answer)
        self._metrics.orphans.set(len(self._orphans))
        self._metrics.orphans_ended.labels(outcome).inc()
        if not answer.is_ended and (timer := self._timers.pop(answer, None)) is not None:
            timer.cancel()

    def _expire(self, answer: RunningAnswer) -> None:
        self._end(answer, "nobody came back for it")

    def _end(self, answer: RunningAnswer, reason: str) -> None:
        task = asyncio.create_task(self._cancel(answer, reason))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _cancel(self, answer: RunningAnswer, reason: str) -> None:
        if answer in self._orphans:
            self._adopted(answer, "cancelled" if answer in self._timers else "expired")
        await answer.cancel(reason)
        self._forget(answer)

    def _keep(self, answer: RunningAnswer) -> None:
        """It has ended: keep its events for who comes back."""
        if answer.error is not None or self._grace_s <= 0:
            self._forget(answer)
            return
        self._ended[answer] = None
        self._ended_bytes += answer.kept_bytes
        self._after_grace(answer, self._forget)
        while self._ended_bytes > MAX_ENDED_BYTES:
            self._forget(next(iter(self._ended)))

    def _forget(self, answer: RunningAnswer) -> None:
        if answer in self._orphans:
            self._adopted(answer, "expired")
        if answer in self._ended:
            del self._ended[answer]
            self._ended_bytes -= answer.kept_bytes
        timer = self._timers.pop(answer, None)
        if timer is not None:
            timer.cancel()
        self._all.discard(answer)
        key = (answer.headers.tenant, answer.headers.request_id)
        if self._by_key.get(key) is answer:
            del self._by_key[key]

    def _after_grace(self, answer: RunningAnswer, then: Callable[[RunningAnswer], None]) -> None:
        timer = self._timers.pop(answer, None)
        if timer is not None:
            timer.cancel()

        def over() -> None:
            self._timers.pop(answer, None)
            then(answer)

        self._timers[answer] = asyncio.get_running_loop().call_later(self._grace_s, over)
