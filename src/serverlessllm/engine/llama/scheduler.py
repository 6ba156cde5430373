# SPDX-License-Identifier: Apache-2.0
"""Who computes what in the next step: admission, pieces of prompts, preemption. Knows no tensors but the windows.

    queued    → running    a slot is free, and so are blocks for all its ids
                           another choice of it has just computed the prompt: it takes over window and blocks
    running   → queued     an older sequence needs a block and none is left (`preempt`, the youngest first)
              → gone       `retire`

Sequences that stand by (they run elsewhere) take what is left: their ids are computed behind those of all others,
they are preempted first, and one that has caught up waits without rows.

The oldest running sequence always finds a block, so that every schedule ends: the pool holds the longest context.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serverlessllm.engine.llama.block_pool import BlockPool
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.sequence import Sequence

STEP_TOKENS: Final = 512
"""Rows of one step where no stream waits for it: cancels and newcomers do."""
BUSY_STEP_TOKENS: Final = 256
"""Rows of one step beside running streams, which wait for its whole time."""
STANDBY_STEP_TOKENS: Final = 32
"""Of those, rows of sequences that run elsewhere: nobody here waits for them. 32 rows more make a step about twice as
long (SmolLM2 on two cores); the source adds one id meanwhile."""


@dataclass(frozen=True, slots=True)
class Step:
    """`decodes` in slot order; `chunks`: sequences, each with how many of its next ids are computed."""

    decodes: list[Sequence]
    chunks: list[tuple[Sequence, int]]


class Scheduler:
    """The sequences of one replica. One thread calls everything."""

    def __init__(self, pool: BlockPool, cache: KvCache, num_slots: int) -> None:
        self._pool = pool
        self._cache = cache
        self._queued: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # the oldest first
        self._free_slots = list(range(num_slots))
        self._is_stuck = False
        self.num_preempted = 0

    @property
    def has_work(self) -> bool:
        """Whether a sequence is queued, or runs and does not merely stand by."""
        if self._is_stuck:
            return False
        return bool(self._queued) or any(sequence.num_rows for sequence in self._running)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._running
        yield from self._queued

    def add(self, sequence: Sequence) -> None:
        """Queue it behind the others."""
        self._is_stuck = False
        self._queued.append(sequence)

    def find(self, request_id: str, choice: int) -> Sequence | None:
        """The sequence of a request's choice."""
        return next((sequence for sequence in self if sequence.key == (request_id, choice)), None)

    def wake(self) -> None:
        """A sequence that stands by got ids."""
        self._is_stuck = False

    def cancel(self, request_id: str, choice: int | None) -> None:
        """Drop one choice of a request, or all of them."""

        def is_meant(sequence: Sequence) -> bool:
            return sequence.request.request_id == request_id and choice in (None, sequence.request.choice)

        self._is_stuck = False
        self._queued = deque(sequence for sequence in self._queued if not is_meant(sequence))
        for sequence in [found for found in self._running if is_meant(found)]:
            self.retire(sequence)

    def retire(self, sequence: Sequence) -> None:
        """A running sequence is over: its slot and blocks are free for the next step."""
        self._is_stuck = False
        self._running.remove(sequence)
        insort(self._free_slots, sequence.slot)
        self._cache.release(sequence.slot, sequence.num_tokens)
        sequence.table.clear()

    def plan(self, now_s: float) -> Step:
        """Admit, make room, and divide the step's rows.

        Empty only while all that run stand by and none of the queued, which do too, finds room.
        """
        self._make_room()
        self._admit(now_s)
        while self._waits_for_standbys():
            self._preempt(self._youngest())
            self._admit(now_s)
        decodes = [sequence for sequence in self._running if sequence.is_decoding]
        chunks = self._chunks((BUSY_STEP_TOKENS if decodes else STEP_TOKENS) - len(decodes), bool(decodes))
        decodes.sort(key=lambda sequence: sequence.slot)
        self._is_stuck = not decodes and not chunks
        return Step(decodes, chunks)

    def _chunks(self, left: int, is_busy: bool) -> list[tuple[Sequence, int]]:
        """Who computes how many ids of `left`; those that stand by come last."""
        chunks: list[tuple[Sequence, int]] = []
        for is_standby in (False, True):
            if is_standby and (is_busy or chunks):
                left = min(left, STANDBY_STEP_TOKENS)
            for sequence in self._running:
                if sequence.is_standby != is_standby or sequence.is_decoding:
                    continue
                num_tokens = min(left, sequence.num_rows)
                if num_tokens > 0:
                    chunks.append((sequence, num_tokens))
                    left -= num_tokens
        return chunks

    def _waits_for_standbys(self) -> bool:
        """Whether someone is queued, nobody else computes, and there is a standby to make room."""
        if any(sequence.num_rows for sequence in self._running) or not self._running:
            return False
        return any(not sequence.is_standby for sequence in self._queued)

    def fork(self, leader: Sequence, now_s: float) -> list[Sequence]:
        """Start the queued choices that share the prompt `leader` has just computed, as far as slots go."""
        forks = [sequence for sequence in self._queued if sequence.may_fork(leader)]
        forks = forks[: len(self._free_slots)]
        for sequence in forks:
            self._queued.remove(sequence)
            sequence.fork(leader, self._free_slots.pop(0), now_s)
            self._cache.copy(leader.slot, sequence.slot, leader.num_computed)
            self._insert(sequence)
        return forks

    def _make_room(self) -> None:
        """Every running sequence gets the blocks that it writes to; the youngest give theirs up for it.

        One that stands by takes none from others.
        """
        for sequence in list(self._running):
            while sequence.slot >= 0 and not sequence.reserve():
                self._preempt(sequence if sequence.is_standby else self._youngest())

    def _youngest(self) -> Sequence:
        standbys = [sequence for sequence in self._running if sequence.is_standby]
        return (standbys or self._running)[-1]

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        insort(self._free_slots, sequence.slot)
        self._cache.release(sequence.slot, sequence.num_tokens)
        sequence.preempt()
        if sequence.is_standby:
            self._queued.append(sequence)
        else:
            self._queued.appendleft(sequence)
        self.num_preempted += 1

    def admit(self, now_s: float, max_rows: int) -> list[Sequence]:
        """Start what is queued as far as slots and blocks go; all that run and have computed nothing. For passes that
        the caller plans himself, of which no stream runs beside.
        """
        self._admit(now_s, max_rows)
        return [sequence for sequence in self._running if sequence.num_computed == 0]

    def _admit(self, now_s: float, max_rows: int = STEP_TOKENS) -> None:
        """Move queued sequences into the lowest free slots, oldest first, while a step has rows for them."""
        left = max_rows - sum(sequence.num_rows for sequence in self._running)
        for sequence in list(self._queued):
            if not self._free_slots or (left <= 0 and self._running):
                return
            if any(sequence.may_fork(leader) for leader in self._running):
                continue
            # One block more for each that runs, or the newcomer would be the first to be preempted.
            if not sequence.try_admit(num_spare=len(self._running)):
                if sequence.is_standby:
                    continue
                return
            self._queued.remove(sequence)
            sequence.admit(self._free_slots.pop(0), now_s)
            self._insert(sequence)
            left -= sequence.num_rows

    def _insert(self, sequence: Sequence) -> None:
        insort(self._running, sequence, key=lambda known: known.serial)
