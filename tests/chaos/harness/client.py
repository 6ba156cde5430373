# SPDX-License-Identifier: Apache-2.0
"""One client of the cluster: it streams an answer, and connects again only when the process that held it died."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from chaos.harness.ask import Ask, Right
from chaos.harness.parts import ServerPart
from chaos.harness.stream_check import StreamCheck

PATIENCE_S: Final = 60.0
"""How long a stream may be silent before the run counts as failed."""
_RETRY_S: Final = 0.1


@dataclass
class Outcome:
    """What became of one request; `problem` is empty for a right answer."""

    ask: Ask
    num_ids: int = 0
    num_connections: int = 0
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
    ) -> None:
        self._session = session
        self._fronts = fronts
        self._ask = ask
        self._check = StreamCheck(ask, right)
        self._request_id = f"{run}-{ask.number}"
        self._outcome = Outcome(ask)

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
        return outcome

    async def _connection(self, front: ServerPart) -> bool:
        """One connection; False when its holder was killed. Raises AssertionError."""
        num_kills, was_down = front.num_kills, front.is_down
        headers = {"x-request-id": self._request_id}
        if self._check.last_seq:
            headers["Last-Event-ID"] = str(self._check.last_seq)
        try:
            async with self._session.post(
                front.url + self._ask.path, json=self._ask.body(), headers=headers
            ) as response:
                self._outcome.num_connections += 1
                assert response.status == 200, f"HTTP {response.status}: {await response.text()}"
                async for data in response.content.iter_any():
                    self._check.feed(data)
            return True
        except aiohttp.ClientError as error:
            self._check.cut()
            is_excused = was_down or front.is_down or front.num_kills != num_kills
            assert is_excused, f"{front.name} cut the stream after {self._check.num_ids} ids: {error!r}"
            return False
