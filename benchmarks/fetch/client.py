# SPDX-License-Identifier: Apache-2.0
"""Ways to fetch one object, in a process of its own: `client.py JSON`; one measurement per line of input.

The JSON names the rows, the `way` of each and what it needs; a line names a row. Answers `{"seconds", "cpu_s"}`: this
process's, never the server's. What a round leaves is removed after its timer has stopped.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol

from serverlessllm.sources.access import Access
from serverlessllm.sources.base import Piece, Sink, Source
from serverlessllm.sources.download import Download
from serverlessllm.sources.file_sink import FileSink
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location, open_source
from serverlessllm.sources.partial_file import PartialFile
from serverlessllm.sources.url_policy import UrlPolicy

PIECE_BYTES = 8 << 20
PEER_RANGE_BYTES = 16 << 20
"""obstore's best of 8, 16 and 32 MiB, with 8 threads, on the machine of the committed results."""
NUM_WORKERS = 8
MADV_HUGEPAGE = 14
HUGE_PAGE_BYTES = 2 << 20


class Way(Protocol):
    """`reset` is not measured, `fetch` is."""

    def reset(self) -> None: ...

    def fetch(self) -> None: ...


class MemorySink:
    """Receives where the bytes are to stay."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def view(self, piece: Piece) -> memoryview:
        return self._memory[piece.offset : piece.offset + piece.nbytes]

    def accept(self, piece: Piece, view: memoryview) -> None:
        """It is where it belongs."""


class Ours:
    """Our download from `origins` into memory that was touched before, or into a `PartialFile`."""

    touched: ClassVar[memoryview | None] = None
    """Of all rows of this process, as an arena is of all models."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._target: str = options["target"]
        self._nbytes = int(options["nbytes"])
        digests: list[str | None] = json.loads(Path(options["digests_file"]).read_text())
        digests = digests[: options["num_pieces"]]
        if not options["verify"]:
            digests = [None] * len(digests)
        self._pieces = [
            Piece(at, min(PIECE_BYTES, self._nbytes - at), digest)
            for at, digest in zip(range(0, self._nbytes, PIECE_BYTES), digests, strict=True)
        ]
        access = Access(HttpAccess(UrlPolicy(allow_private=True)), options.get("environment", {}))
        self._origins: list[Source] = [
            open_source(Location.parse(url), "", access) for url in options["origins"]
        ]
        if Ours.touched is None:
            Ours.touched = touched_memory(options["touched_bytes"])

    def reset(self) -> None:
        if self._target != "touched":
            Path(self._target).unlink(missing_ok=True)

    def fetch(self) -> None:
        if self._target == "touched" and Ours.touched is not None:
            return self._into(MemorySink(Ours.touched))
        with PartialFile(Path(self._target), self._nbytes, "bench", pieces=self._pieces) as part:
            self._into(FileSink(part, PIECE_BYTES))
            part.finish()
        return None

    def _into(self, sink: Sink) -> None:
        report = Download(self._pieces, self._origins, sink, num_workers=NUM_WORKERS).run()
        if not report.is_complete:
            raise RuntimeError("incomplete")


def touched_memory(nbytes: int) -> memoryview:
    """Huge pages, written to once: what a prefaulted arena gives."""
    memory = mmap.mmap(-1, -(-nbytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES)
    memory.madvise(MADV_HUGEPAGE)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return memoryview(memory)[:nbytes]


class Obstore:
    """obstore: ranges by threads; the buffers that it returns are let go, nothing is copied or verified."""

    def __init__(self, options: dict[str, Any]) -> None:
        import obstore
        from obstore.store import S3Store

        self._get_range = obstore.get_range
        self._store = S3Store(options["bucket"], config=options["store"], client_options={"allow_http": True})
        self._key: str = options["key"]
        self._nbytes = int(options["nbytes"])

    def reset(self) -> None:
        """Nothing is kept."""

    def fetch(self) -> None:
        with ThreadPoolExecutor(NUM_WORKERS) as pool:
            if sum(pool.map(self._one, range(0, self._nbytes, PEER_RANGE_BYTES))) != self._nbytes:
                raise RuntimeError("incomplete")

    def _one(self, at: int) -> int:
        end = min(at + PEER_RANGE_BYTES, self._nbytes)
        return len(self._get_range(self._store, self._key, start=at, end=end))


class Boto3:
    """boto3: its own transfer manager, with as many connections, into a file on tmpfs."""

    def __init__(self, options: dict[str, Any]) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config

        keys = {key: options["store"][key] for key in ("aws_access_key_id", "aws_secret_access_key")}
        self._client = boto3.client(
            "s3",
            endpoint_url=options["store"]["aws_endpoint_url"],
            region_name="us-east-1",
            config=Config(max_pool_connections=NUM_WORKERS * 2),
            **keys,
        )
        self._transfer = TransferConfig(
            max_concurrency=NUM_WORKERS,
            multipart_chunksize=PEER_RANGE_BYTES,
            multipart_threshold=PEER_RANGE_BYTES,
        )
        self._bucket, self._key, self._target = options["bucket"], options["key"], options["target"]

    def reset(self) -> None:
        Path(self._target).unlink(missing_ok=True)

    def fetch(self) -> None:
        self._client.download_file(self._bucket, self._key, self._target, Config=self._transfer)


WAYS: dict[str, Callable[[dict[str, Any]], Way]] = {"ours": Ours, "obstore": Obstore, "boto3": Boto3}


def cpu_s() -> float:
    """User and system time of this process and of the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Prepare, say so, then measure once per line."""
    ways: dict[str, Way] = {
        name: WAYS[options["way"]](options) for name, options in json.loads(sys.argv[1]).items()
    }
    for way in ways.values():  # import, connect, find the object
        way.reset()
        way.fetch()
        way.reset()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        way = ways[line.strip()]
        before_s, started_s = cpu_s(), time.perf_counter()
        way.fetch()
        seconds = time.perf_counter() - started_s
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s() - before_s}), flush=True)
        way.reset()


if __name__ == "__main__":
    main()
