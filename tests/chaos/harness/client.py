# SPDX-License-Identifier: Apache-2.0
"""One client of the cluster: it streams an answer, and connects again only when the process that held it died.

An answer whose orchestrator died is nowhere (410, `docs/stream.md`) where the agent that ran it was lost too, before
anybody took it over. Then, and only then, the client asks anew, as that answer tells it to.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from chaos.harness.ask import Ask, Right
from chaos.harness.parts import ServerPart
from chaos.harness.stream_check import StreamCheck

PATIENCE_S: Final = 60.0
"""How long a stream may be silent before the run counts as failed."""
TAKEOVER_S: Final = 12.0
"""Within so long after an agent's trouble its streams go on elsewhere: silence is noticed, the model wakes."""
MAX_REFUSALS: Final = 10
"""5xx that a client takes which comes back for its answer, as our SDK does."""
_RETRY_S: Final = 0.1


@dataclass
class Outcome:
    """What became of one request; `problem` is empty for a right answer."""

    ask: Ask
    num_ids: int = 0
    num_connections: int = 0
    num_anew: int = 0
    num_near_ties: int = 0
    problem: str = ""


class Client:
    """`run` once. Its request id is its own, so that it may ask for the rest of its answer."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        fronts: Sequence[ServerPart],
        ask: Ask,
        right: Right,
        *,
        run: str,
        had_agent_trouble_since: Callable[[float], bool] = lambda when_s: False,
    ) -> None:
        """`had_agent_trouble_since(when_s)`: whether some agent was not well at some moment since then."""
        self._session = session
        self._fronts = fronts
        self._ask = ask
        self._right = right
        self._check = StreamCheck(ask, right)
        self._had_agent_trouble_since = had_agent_trouble_since
        self._lost_front_s = math.inf
        self._request_id = f"{run}-{ask.number}"
        self._outcome = Outcome(ask)
        self._num_refusals = 0
        self._is_back = False

    async def run(self) -> Outcome:
        """Ask until the answer is whole."""
        outcome = self._outcome
        front = self._fronts[self._ask.number % len(self._fronts)]
        try:
            while not await self._connection(front):
                front = self._fronts[(self._fronts.index(front) + 1) % len(self._fronts)]
                await asyncio.sleep(_RETRY_S)
            self._check.check_whole()
        except AssertionError as problem:
            outcome.problem = str(problem) or "an assertion failed"
        except TimeoutError:
            outcome.problem = f"silent for {PATIENCE_S:g} s; last comment: {self._check.comments[-1:]}"
        outcome.num_ids = self._check.num_ids
        outcome.num_near_ties = self._check.num_near_ties
        return outcome

    async def _connection(self, front: ServerPart) -> bool:
        """One connection; False when its holder was killed. Raises AssertionError."""
        num_kills, was_down = front.num_kills, front.is_down
        headers = {"x-request-id": self._request_id}
        if self._is_back:
            headers["Last-Event-ID"] = str(self._check.last_seq)
        try:
            async with self._session.post(
                front.url + self._ask.path, json=self._ask.body(), headers=headers
            ) as response:
                self._outcome.num_connections += 1
                if response.status == 410 and self._may_ask_anew():
                    self._ask_anew()
                    return False
                if self._is_back and response.status >= 500 and self._num_refusals < MAX_REFUSALS:
                    self._num_refusals += 1
                    return False
                assert response.status == 200, f"HTTP {response.status}: {await response.text()}"
                async for data in response.content.iter_any():
                    self._check.feed(data)
            return True
        except aiohttp.ClientError as error:
            self._check.cut()
            if self._outcome.num_connections:
                self._is_back = True
                self._lost_front_s = min(self._lost_front_s, asyncio.get_running_loop().time())
            is_excused = was_down or front.is_down or front.num_kills != num_kills
            assert is_excused, f"{front.name} cut the stream after {self._check.num_ids} ids: {error!r}"
            return False

    def _may_ask_anew(self) -> bool:
        return self._is_back and self._had_agent_trouble_since(self._lost_front_s - TAKEOVER_S)

    def _ask_anew(self) -> None:
        """Under another name, from the beginning."""
        self._outcome.num_anew += 1
        self._request_id += "-anew"
        self._check = StreamCheck(self._ask, self._right)
        self._is_back, self._lost_front_s = False, math.inf
