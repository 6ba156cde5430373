# SPDX-License-Identifier: Apache-2.0
"""Fetch pieces of one object from one or several origins at once, verified, until all are accepted.

Every worker takes the next piece and keeps it, and its memory, until it is good; which origin it asks is decided
anew for each try. A worker that finds none left re-requests a piece that a slow origin still owes, into memory of
its own; the first good copy wins.

Memory: none of its own but, near the end, one such copy per idle worker, as far as `copies` allows. Knows nothing of
files, arenas or HTTP.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import (
    CapacityError,
    CorruptDataError,
    ModelLoadError,
    SllmError,
    UnreachableError,
)
from serverlessllm.sources.base import Interruptible, Piece, ReadsAhead, Sink, Source
from serverlessllm.sources.origin import MAX_FAILURES, Origin, OriginReport, choose, paces
from serverlessllm.sources.piece_queue import PieceQueue

DEFAULT_WORKERS: Final = 8
STEAL_GAIN: Final = 1.5
"""Another origin must be expected to be this much faster before a piece is asked for twice."""
SAME_ORIGIN_PATIENCE_S: Final = 2.0
"""How long a lone origin may be silent beyond its usual time before it is asked again over another connection."""
LOOK_AGAIN_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """`is_complete` is false when `stop` ended it. `num_stolen`: pieces that a faster origin brought first."""

    nbytes: int
    seconds: float
    is_complete: bool
    num_stolen: int
    origins: tuple[OriginReport, ...]

    @property
    def gbps(self) -> float:
        """10⁹ bytes per second over the whole run."""
        return self.nbytes / self.seconds / 1e9 if self.seconds > 0 else 0.0


@dataclass(slots=True, eq=False)
class _Task:
    """A piece that a worker is after. `copy`: what a helper fetched meanwhile; the worker itself puts it in place.

    `run_bytes`: see `piece_queue.Turn`.
    """

    piece: Piece
    worker_id: int
    run_bytes: int
    origin: Origin | None = None
    asked_s: float = 0.0
    helper_id: int | None = None
    helper_origin: Origin | None = None
    copy: bytearray | None = None
    refused_by: set[Origin] = field(default_factory=set)


class Download:
    """One download; `run` once. `stop` may come from any thread."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        origins: Sequence[Source],
        sink: Sink,
        *,
        num_workers: int = DEFAULT_WORKERS,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
        max_failures: int = MAX_FAILURES,
        copies: threading.BoundedSemaphore | None = None,
        width: Callable[[], int] | None = None,
    ) -> None:
        """Pieces are asked for in the given order, of a lone origin several in a row at once (`piece_queue.py`).
        The origins stay open, for their owner to close. One that fails `max_failures` times in a row is given up.
        `copies` counts pieces that may be held in memory of our own, and may be shared with other downloads; `width`
        says how many pieces may be under way now, at most `num_workers`.

        Raises: ValueError without origins, or when several are to be mixed without digests to prove them equal.
        """
        if not origins:
            raise ValueError("a download needs an origin")
        if len(origins) > 1 and any(piece.digest is None for piece in pieces):
            raise ValueError("several origins may be mixed only when every piece has a digest")
        self._origins = [
            Origin(source, jitter or random.Random(), max_failures=max_failures) for source in origins
        ]
        self._sink = sink
        self._clock = clock or SystemClock()
        self._num_workers = max(1, min(num_workers, len(pieces)))
        self._queue = PieceQueue(pieces, self._num_workers)
        self._total_bytes = sum(piece.nbytes for piece in pieces)
        self._num_left = len(pieces)
        self._copies = copies or threading.BoundedSemaphore(self._num_workers)
        self._width = width or (lambda: self._num_workers)
        self._changed = threading.Condition()
        self._tasks: list[_Task] = []
        self._done_bytes = 0
        self._num_stolen = 0
        self._is_stopped = False
        self._error: BaseException | None = None

    @property
    def done_bytes(self) -> int:
        """Bytes accepted so far."""
        return self._done_bytes

    def run(self) -> DownloadReport:
        """Fetch everything; blocks. Once it has returned or raised, nothing touches the sink's memory.

        Raises: CorruptDataError naming every origin when none can be trusted any more and one of them sent bad
        bytes; UnreachableError or ModelLoadError naming them when none can be read; what the sink raises.
        """
        started_s = self._clock.monotonic_s()
        threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}")
            for number in range(1, self._num_workers)
        ]
        running: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                running.append(thread)
            self._work()
        except BaseException as error:  # no more threads, or an interrupt from the keyboard
            self._give_up(error)
            raise
        finally:
            for thread in running:
                thread.join()
        if self._error is not None:
            raise self._error
        return DownloadReport(
            nbytes=self._done_bytes,
            seconds=self._clock.monotonic_s() - started_s,
            is_complete=self._done_bytes == self._total_bytes,
            num_stolen=self._num_stolen,
            origins=tuple(origin.report() for origin in self._origins),
        )

    def stop(self) -> None:
        """Ask for nothing more and cut short what is being read; `run` then returns. Idempotent."""
        with self._changed:
            self._is_stopped = True
            for task in self._tasks:
                self._interrupt(task.origin, task.worker_id)
                self._interrupt(task.helper_origin, task.helper_id)
            self._changed.notify_all()

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
        self.stop()

    def _interrupt(self, origin: Origin | None, thread_id: int | None) -> None:
        if origin is not None and thread_id is not None and isinstance(origin.source, Interruptible):
            origin.source.interrupt(thread_id)

    def _work(self) -> None:
        try:
            while (task := self._take()) is not None:
                self._complete(task)
            while (slow := self._take_slow()) is not None:
                self._help(*slow)
        except Exception as error:  # a thread's end: `run` raises it
            self._give_up(error)

    def _take(self) -> _Task | None:
        with self._changed:
            while self._num_left and not self._is_stopped and len(self._tasks) >= self._width():
                self._changed.wait(LOOK_AGAIN_S)
            worker_id = threading.get_ident()
            # Of several origins each piece is asked of the one that is best then.
            is_lone = sum(origin.closed is None for origin in self._origins) == 1
            turn = None if self._is_stopped else self._queue.take(worker_id, in_runs=is_lone)
            if turn is None:
                return None
            self._num_left -= 1
            task = _Task(turn.piece, worker_id, turn.run_bytes)
            self._tasks.append(task)
            return task

    def _complete(self, task: _Task) -> None:
        """Fetch one piece, however many tries it takes, and hand it to the sink."""
        view = self._sink.view(task.piece)
        try:
            while (origin := self._next_origin(task)) is not None:
                if self._fetch(task, origin, view):
                    break
            if task.copy is not None:
                view[:] = task.copy
            elif origin is None:
                return  # stopped
            self._sink.accept(task.piece, view)
            with self._changed:
                self._done_bytes += task.piece.nbytes
        finally:
            # An error's traceback would keep the sink's memory mapped.
            view.release()
            with self._changed:
                self._tasks.remove(task)
                if task.copy is not None:
                    self._copies.release()
                self._interrupt(task.helper_origin, task.helper_id)
                self._changed.notify_all()

    def _help(self, task: _Task, origin: Origin) -> None:
        """Fetch a slow piece into a copy. `_take_slow` took the room for it, which goes on with the copy."""
        copy: bytearray | None = None
        try:
            copy = bytearray(task.piece.nbytes)
            self._fetch(task, origin, copy)
        finally:
            if copy is None or task.copy is not copy:
                self._copies.release()

    def _next_origin(self, task: _Task) -> Origin | None:
        """Whom to ask now, waiting while all that is left backs off; None when stopped or a helper was faster."""
        with self._changed:
            while not self._is_stopped and task.copy is None:
                open_ones = self._open_for(task)
                now_s = self._clock.monotonic_s()
                ready = [origin for origin in open_ones if origin.not_before_s <= now_s]
                if ready:
                    left_bytes = self._total_bytes - self._done_bytes
                    task.origin = choose(ready, task.piece.nbytes, left_bytes, now_s)
                    task.asked_s = now_s
                    task.origin.begin(task.piece.nbytes, now_s)
                    return task.origin
                self._changed.wait(min(origin.not_before_s for origin in open_ones) - now_s)
            return None

    def _open_for(self, task: _Task) -> list[Origin]:
        """Origins that may still be asked for this piece. Raises when there are none."""
        found = [origin for origin in self._origins if origin.closed is None]
        if not found:
            raise self._verdict()
        # One that failed with this very piece comes last, not never: the others may do no better.
        return [origin for origin in found if origin not in task.refused_by] or found

    def _verdict(self) -> SllmError:
        reasons = "; ".join(f"{origin.source.name}: {origin.closed}" for origin in self._origins)
        text = f"no origin is left to fetch from: {reasons}"
        if any(origin.is_corrupt for origin in self._origins):
            return CorruptDataError(text, source="agent")
        if any(origin.is_exhausted for origin in self._origins):
            return UnreachableError(text, source="agent")
        return ModelLoadError(text, source="agent")

    def _fetch(self, task: _Task, origin: Origin, target: memoryview | bytearray) -> bool:
        """Ask `origin` once, after `begin`; True when `target` holds the good bytes. Blames the origin otherwise.

        A bytearray is a helper's copy, which is offered to the worker that the piece belongs to.
        """
        piece = task.piece
        began_s = self._clock.monotonic_s()
        failure: SllmError | None = None
        is_good = False
        try:
            if task.run_bytes > piece.nbytes and isinstance(origin.source, ReadsAhead):
                origin.source.announce(piece.offset, task.run_bytes)
            with memoryview(target) as view:
                count = origin.source.read_into(piece.offset, view)
            failure = self._flaw(piece, count, target)
            is_good = failure is None
        except CapacityError:  # of the memory that is read into: no fault of the origin's
            raise
        except SllmError as error:
            failure = error
        finally:
            with self._changed:
                now_s = self._clock.monotonic_s()
                if is_good:
                    origin.succeeded(piece.nbytes, now_s)
                elif failure is not None:
                    self._blame(task, origin, failure, began_s, now_s)
                origin.end(piece.nbytes, now_s)
                self._leave(task, origin, target if is_good and isinstance(target, bytearray) else None)
        return is_good

    def _leave(self, task: _Task, origin: Origin, copy: bytearray | None) -> None:
        """This thread reads no more; whoever interrupted it meant what is over. Under the lock."""
        if task.worker_id == threading.get_ident():
            task.origin = None
        else:
            task.helper_id = task.helper_origin = None
            if copy is not None and task in self._tasks:
                task.copy = copy
                self._num_stolen += 1
                self._interrupt(task.origin, task.worker_id)
                self._changed.notify_all()
        if isinstance(origin.source, Interruptible):
            origin.source.allow(threading.get_ident())

    def _flaw(self, piece: Piece, count: int, view: memoryview | bytearray) -> SllmError | None:
        if count < piece.nbytes:
            return CorruptDataError(f"ends at byte {piece.offset + count}", source="agent")
        if piece.digest is None or (found := blake3(view).hexdigest()) == piece.digest:
            return None
        last = piece.offset + piece.nbytes - 1
        return _BadPieceError(
            f"bytes {piece.offset}-{last} have digest {found[:16]}…, not {piece.digest[:16]}…", source="agent"
        )

    def _blame(self, task: _Task, origin: Origin, failure: SllmError, began_s: float, now_s: float) -> None:
        """A passing failure is waited out; anything else ends our trust in the origin, sooner or later."""
        is_bad_piece = isinstance(failure, _BadPieceError)
        was_interrupted = self._is_stopped or task.copy is not None or task not in self._tasks
        if was_interrupted and not is_bad_piece:
            return
        task.refused_by.add(origin)
        if isinstance(failure, UnreachableError):
            origin.failed(failure.message, began_s, now_s, failure.retry_after_s)
        elif is_bad_piece:
            is_last = all(other.closed is not None for other in self._origins if other is not origin)
            origin.sent_bad_piece(failure.message, began_s, now_s, is_last=is_last)
        else:
            origin.quarantine(failure.message)
        self._changed.notify_all()

    def _take_slow(self) -> tuple[_Task, Origin] | None:
        """Wait for a piece that is better asked for a second time, and of whom; None when all pieces are done."""
        with self._changed:
            while self._tasks and not self._is_stopped:
                now_s = self._clock.monotonic_s()
                for task in self._tasks:
                    helper_origin = self._faster_origin(task, now_s)
                    if helper_origin is not None and self._copies.acquire(blocking=False):
                        task.helper_id, task.helper_origin = threading.get_ident(), helper_origin
                        helper_origin.begin(task.piece.nbytes, now_s)
                        return task, helper_origin
                self._changed.wait(LOOK_AGAIN_S)
            return None

    def _faster_origin(self, task: _Task, now_s: float) -> Origin | None:
        """Who would bring this piece well before the one that owes it; None: leave it be."""
        owner = task.origin
        if owner is None or task.helper_id is not None or task.copy is not None:
            return None
        able = [one for one in self._origins if one.closed is None and one.not_before_s <= now_s]
        pace = paces({*able, owner}, now_s)
        asked_for_s = now_s - task.asked_s
        usual_s = max(owner.outstanding_bytes, task.piece.nbytes) / pace[owner]
        # What is late already is taken to need as long again.
        left_s = usual_s - asked_for_s if asked_for_s < usual_s else asked_for_s
        others = [one for one in able if one is not owner]
        if others:
            best = min(others, key=lambda one: (one.outstanding_bytes + task.piece.nbytes) / pace[one])
            if left_s > STEAL_GAIN * (best.outstanding_bytes + task.piece.nbytes) / pace[best]:
                return best
        elif owner in able and asked_for_s > SAME_ORIGIN_PATIENCE_S + usual_s:
            return owner
        return None


class _BadPieceError(CorruptDataError):
    """The bytes of a piece differ from their digest."""
