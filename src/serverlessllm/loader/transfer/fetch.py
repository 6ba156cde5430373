# SPDX-License-Identifier: Apache-2.0
"""From origins to the arena and the disk at once: each chunk is received in the region, verified, and written aside.

Knows one artifact's files and origins; not the arena's room, nor who waits. Memory: none of its own, the region
receives; `sources.download` may hold some pieces near the end, as many as all fetches of a node may together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from serverlessllm.arena.region import page_rounded
from serverlessllm.errors import CorruptDataError, SllmError, UnreachableError
from serverlessllm.loader.disk.staged_copy import StagedCopy
from serverlessllm.loader.manifest import OriginOpener
from serverlessllm.loader.plan import ChunkRead
from serverlessllm.loader.report import SourceShare
from serverlessllm.loader.transfer.arrivals import Arrivals
from serverlessllm.loader.transfer.fetch_shares import FetchShare, FetchShares
from serverlessllm.loader.transfer.pieces import placed
from serverlessllm.sources.base import Piece, Source
from serverlessllm.sources.download import Download, DownloadReport
from serverlessllm.sources.striped import StripedSource

_log = logging.getLogger(__name__)


class RemoteFetch:
    """One load's transfers; a `run.Fetch`. `staged` is the disk's half of it."""

    def __init__(
        self,
        origins: Sequence[str],
        open_origin: OriginOpener,
        staged: StagedCopy,
        *,
        shares: FetchShares,
        weight: float,
        copies: threading.BoundedSemaphore,
        num_chunks_at_once: int | None = None,
    ) -> None:
        """`weight` is its part of the node's connections among the fetches of `shares`; `copies` as `Download`'s.

        `num_chunks_at_once`: so many chunks are on the way, each over several connections; None: one for each.
        """
        self._origins = origins
        self._open_origin = open_origin
        self._shares_of_node = shares
        self._weight = weight
        self._copies = copies
        self._num_stripes = 1 if num_chunks_at_once is None else max(1, shares.most // num_chunks_at_once)
        self._lock = threading.Lock()
        self._is_stopped = False
        self._download: Download | None = None
        self._shares: dict[str, SourceShare] = {}
        self.staged = staged
        self.seconds = 0.0
        """Time in which anything was being fetched."""
        self.num_corrupt = 0
        """How often an origin sent wrong bytes."""

    @property
    def shares(self) -> list[SourceShare]:
        """What each origin gave."""
        return list(self._shares.values())

    def stop(self) -> None:
        """End `run` soon; callable from any thread, at any time."""
        with self._lock:
            self._is_stopped = True
            if self._download is not None:
                self._download.stop()

    def run(self, reads: Sequence[ChunkRead], region: memoryview, arrivals: Arrivals) -> None:
        """Fetch and verify `reads`, file by file in order; blocks. Returns early when stopped.

        Raises: DiskFullError before anything is fetched when the disk has no room; CorruptDataError when every
        origin has wrong bytes, UnreachableError when none answers.
        """
        started_s = time.monotonic()
        files = list(dict.fromkeys(read.file for read in reads))
        self.staged.begin(files)
        try:
            with self._shares_of_node.join(self._weight) as share:
                for file in files:
                    sink = _RegionSink(
                        [read for read in reads if read.file == file], region, arrivals, self.staged, file
                    )
                    self._transfer(sink, share)
        finally:
            self.seconds += time.monotonic() - started_s

    def _transfer(self, sink: _RegionSink, share: FetchShare) -> None:
        with ExitStack() as cleanup:
            sources = self._open(sink.file, cleanup)
            with self._lock:
                if self._is_stopped:
                    return
                download = self._download = Download(
                    sink.pieces,
                    sources,
                    sink,
                    num_workers=max(1, self._shares_of_node.most // self._num_stripes),
                    copies=self._copies,
                    width=lambda: max(1, share.num_connections // self._num_stripes),
                )
            try:
                self._add_shares(download.run())
            finally:
                self._download = None

    def _open(self, file: str, cleanup: ExitStack) -> list[Source]:
        """The file at every origin that has it. Raises what the only or last one said when there is none."""
        sources: list[Source] = []
        failures: list[SllmError] = []
        for origin in self._origins:
            try:
                source = self._striped(self._open_origin(origin, file))
            except SllmError as error:
                failures.append(error)
                continue
            cleanup.callback(source.close)
            sources.append(source)
        if not sources:
            kind = UnreachableError if any(error.retryable for error in failures) else CorruptDataError
            blame = "; ".join(error.message for error in failures) or "none is known"
            raise kind(f"{file} is not on this node, and no origin has it: {blame}", source="agent")
        return sources

    def _striped(self, source: Source) -> Source:
        return source if self._num_stripes < 2 else StripedSource(source, self._num_stripes)

    def _add_shares(self, report: DownloadReport) -> None:
        for origin in report.origins:
            if origin.num_corrupt:
                _log.warning("%s sent %d wrong chunks", origin.name, origin.num_corrupt)
                self.num_corrupt += origin.num_corrupt
            old = self._shares.get(origin.name, SourceShare(origin.name, "remote", 0, 0.0))
            self._shares[origin.name] = SourceShare(
                origin.name, "remote", old.nbytes + origin.nbytes, old.seconds + origin.busy_s
            )


class _RegionSink:
    """The pieces of one file: received in the region, written to the half-fetched file, then announced."""

    def __init__(
        self,
        reads: Sequence[ChunkRead],
        region: memoryview,
        arrivals: Arrivals,
        staged: StagedCopy,
        file: str,
    ) -> None:
        self.file = file
        self._region = region
        self._arrivals = arrivals
        self._staged = staged
        self._placed = {one.piece: one for one in placed(reads)}

    @property
    def pieces(self) -> list[Piece]:
        """All of them, in the order of the reads."""
        return list(self._placed)

    def view(self, piece: Piece) -> memoryview:
        """See `Sink.view`: the piece's place in the region."""
        offset = self._placed[piece].region_offset
        return self._region[offset : offset + piece.nbytes]

    def accept(self, piece: Piece, view: memoryview) -> None:
        """See `Sink.accept`."""
        place = self._placed[piece]
        end = place.region_offset + piece.nbytes
        self._region[end : page_rounded(end)] = bytes(page_rounded(end) - end)
        self._staged.write(self.file, piece, view)
        view.release()
        self._arrivals.note(place.shard, piece.nbytes)
