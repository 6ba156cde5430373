# SPDX-License-Identifier: Apache-2.0
"""One way to fetch one object, in a process of its own: `client.py JSON`; one measurement per line of input.

The JSON names the `way` and what it needs. Answers `{"seconds", "cpu_s"}`: this process's, never the server's.
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
from typing import Any

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
NUM_WORKERS = 8
MADV_HUGEPAGE = 14
Way = Callable[[], None]


class MemorySink:
    """Receives where the bytes are to stay."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def view(self, piece: Piece) -> memoryview:
        return self._memory[piece.offset : piece.offset + piece.nbytes]

    def accept(self, piece: Piece, view: memoryview) -> None:
        """It is where it belongs."""


class Ours:
    """Our download from `origins` into memory that was touched before, fresh memory, or a file."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._target = options["target"]
        self._nbytes = int(options["nbytes"])
        digests = options["digests"] if options["verify"] else [None] * len(options["digests"])
        self._pieces = [
            Piece(at, min(PIECE_BYTES, self._nbytes - at), digest)
            for at, digest in zip(range(0, self._nbytes, PIECE_BYTES), digests, strict=True)
        ]
        access = Access(HttpAccess(UrlPolicy(allow_private=True)), options.get("environment", {}))
        self._origins: list[Source] = [
            open_source(Location.parse(url), "", access) for url in options["origins"]
        ]
        self._touched = touched_memory(self._nbytes) if self._target == "touched" else None

    def __call__(self) -> None:
        if self._touched is not None:
            return self._into(MemorySink(self._touched))
        path = Path(self._target)
        path.unlink(missing_ok=True)
        if str(path).startswith("/dev/shm/"):
            return self._into_fresh_memory(path)
        with PartialFile(path, self._nbytes, "bench", pieces=self._pieces) as part:
            self._into(FileSink(part, PIECE_BYTES))
            part.finish()
        return None

    def _into_fresh_memory(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.truncate(self._nbytes)
            with mmap.mmap(file.fileno(), self._nbytes) as mapped, memoryview(mapped) as view:
                self._into(MemorySink(view))

    def _into(self, sink: Sink) -> None:
        report = Download(self._pieces, self._origins, sink, num_workers=NUM_WORKERS).run()
        if not report.is_complete:
            raise RuntimeError("incomplete")


def touched_memory(nbytes: int) -> memoryview:
    """Huge pages, written to once: what a prefaulted arena gives."""
    memory = mmap.mmap(-1, -(-nbytes // (2 << 20)) * (2 << 20))
    memory.madvise(MADV_HUGEPAGE)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return memoryview(memory)[:nbytes]


def obstore_ranges(options: dict[str, Any]) -> Way:
    """obstore: ranges by threads; the buffers that it returns are let go, nothing is copied or verified."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(options["bucket"], config=options["store"], client_options={"allow_http": True})
    nbytes = int(options["nbytes"])

    def one(at: int) -> int:
        end = min(at + PEER_RANGE_BYTES, nbytes)
        return len(obstore.get_range(store, options["key"], start=at, end=end))

    def way() -> None:
        with ThreadPoolExecutor(NUM_WORKERS) as pool:
            if sum(pool.map(one, range(0, nbytes, PEER_RANGE_BYTES))) != nbytes:
                raise RuntimeError("incomplete")

    return way


def boto3_transfer(options: dict[str, Any]) -> Way:
    """boto3: its own transfer manager, with as many connections, into a file on tmpfs."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    keys = {key: options["store"][key] for key in ("aws_access_key_id", "aws_secret_access_key")}
    client = boto3.client(
        "s3",
        endpoint_url=options["store"]["aws_endpoint_url"],
        region_name="us-east-1",
        config=Config(max_pool_connections=NUM_WORKERS * 2),
        **keys,
    )
    transfer = TransferConfig(
        max_concurrency=NUM_WORKERS,
        multipart_chunksize=PEER_RANGE_BYTES,
        multipart_threshold=PEER_RANGE_BYTES,
    )

    def way() -> None:
        Path(options["target"]).unlink(missing_ok=True)
        client.download_file(options["bucket"], options["key"], options["target"], Config=transfer)

    return way


WAYS: dict[str, Callable[[dict[str, Any]], Way]] = {
    "ours": Ours,
    "obstore": obstore_ranges,
    "boto3": boto3_transfer,
}


def main() -> None:
    """Prepare, say so, then measure once per line."""
    options = json.loads(sys.argv[1])
    if "digests_file" in options:
        options["digests"] = json.loads(Path(options["digests_file"]).read_text())[: options["num_pieces"]]
    way = WAYS[options["way"]](options)
    way()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for _ in sys.stdin:
        before, started_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        way()
        seconds = time.perf_counter() - started_s
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}), flush=True)


if __name__ == "__main__":
    main()
