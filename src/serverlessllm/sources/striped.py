# SPDX-License-Identifier: Apache-2.0
"""One read over several connections, so that few pieces are in flight and each is there early.

A download of eight workers has eight pieces on the way, which share the line: all arrive late, and together. Who
works on the first piece while the others come is better served by two workers with four stripes each. Knows no
pieces and no digests.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from serverlessllm.sources.base import Interruptible, Source
from serverlessllm.types import Tier

STRIPE_ALIGN_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class _Crew:
    """The threads that help one reading thread; each keeps its own connection."""

    threads: tuple[ThreadPoolExecutor, ...]
    thread_ids: tuple[int, ...]


class StripedSource:
    """`source`, each of whose reads is split among `num_stripes` threads: the caller's and its crew's."""

    tier: Tier

    def __init__(self, source: Source, num_stripes: int) -> None:
        """Takes `source` over: `close` closes it. Raises: ValueError for fewer than two stripes."""
        if num_stripes < 2:
            raise ValueError(f"{num_stripes} stripes split nothing")
        self.name = source.name
        self.tier = source.tier
        self._source = source
        self._num_stripes = num_stripes
        self._lock = threading.Lock()
        self._crews: dict[int, _Crew] = {}

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self._source.size

    @property
    def identity(self) -> object:
        """See `Source.identity`."""
        return self._source.identity

    def read_into(self, offset: int, view: memoryview) -> int:
        """See `Source.read_into`; an error is that of the first stripe that has one."""
        step = -(-len(view) // self._num_stripes // STRIPE_ALIGN_BYTES) * STRIPE_ALIGN_BYTES
        starts = list(range(0, len(view), step)) if step else [0]
        crew = self._crew()
        running: list[Future[int]] = [
            thread.submit(self._read, offset, view, start, step)
            for thread, start in zip(crew.threads, starts[1:], strict=False)
        ]
        counts: list[int] = []
        try:
            counts.append(self._read(offset, view, 0, step or len(view)))
        finally:
            # Nothing may write to the view once this has returned or raised.
            for future in running:
                future.exception()
        counts += [future.result() for future in running]
        return _contiguous(counts, step)

    def interrupt(self, thread_id: int) -> None:
        """See `Interruptible`."""
        for one in self._with_crew(thread_id):
            if isinstance(self._source, Interruptible):
                self._source.interrupt(one)

    def allow(self, thread_id: int) -> None:
        """See `Interruptible`."""
        for one in self._with_crew(thread_id):
            if isinstance(self._source, Interruptible):
                self._source.allow(one)

    def close(self) -> None:
        """End the crews and close the source; no read may be in progress. Idempotent."""
        with self._lock:
            crews, self._crews = self._crews, {}
        for crew in crews.values():
            for thread in crew.threads:
                thread.shutdown()
        self._source.close()

    def _read(self, offset: int, view: memoryview, start: int, step: int) -> int:
        with view[start : start + step] as stripe:
            return self._source.read_into(offset + start, stripe)

    def _crew(self) -> _Crew:
        """This thread's helpers."""
        thread_id = threading.get_ident()
        with self._lock:
            crew = self._crews.get(thread_id)
        if crew is None:
            threads = tuple(
                ThreadPoolExecutor(1, thread_name_prefix="stripe") for _ in range(self._num_stripes - 1)
            )
            crew = _Crew(threads, tuple(thread.submit(threading.get_ident).result() for thread in threads))
            with self._lock:
                self._crews[thread_id] = crew
        return crew

    def _with_crew(self, thread_id: int) -> tuple[int, ...]:
        with self._lock:
            crew = self._crews.get(thread_id)
        return (thread_id,) if crew is None else (thread_id, *crew.thread_ids)


def _contiguous(counts: list[int], step: int) -> int:
    """Bytes from the front on; a stripe that ends early ends the object."""
    total = 0
    for count in counts:
        total += count
        if count < step:
            break
    return total
