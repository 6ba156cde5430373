# SPDX-License-Identifier: Apache-2.0
"""Compare an adopted region with its digests: its bytes outlived a process, and nobody has read them since.

0.21 CPU-seconds per GB over as many threads as are given. Knows bytes and digests, not who adopted them.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from serverlessllm.errors import CorruptDataError
from serverlessllm.loader.plan import ChunkRead, LoadableIndex, Offer, plan_load
from serverlessllm.loader.transfer.pipeline import check_chunks


def is_region_right(
    index: LoadableIndex, region: memoryview, *, num_threads: int, stop: threading.Event
) -> bool | None:
    """Whether every byte is as the index says; None when stopped before that is known. Blocks."""
    if len(region) < index.weights_nbytes:
        return False
    is_wrong = threading.Event()

    def check(read: ChunkRead) -> None:
        if stop.is_set() or is_wrong.is_set():
            return
        with region[read.region_offset : read.region_offset + read.nbytes] as data:
            try:
                check_chunks(read, data)
            except CorruptDataError:
                is_wrong.set()

    plan = plan_load(index, [Offer("dram", 0.0)])
    with ThreadPoolExecutor(num_threads, thread_name_prefix="verify") as threads:
        list(threads.map(check, plan.reads))
    if is_wrong.is_set():
        return False
    return None if stop.is_set() else True
