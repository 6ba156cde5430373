# SPDX-License-Identifier: Apache-2.0
"""Bind an engine to a region of the arena: map it read-only, then attach. Knows no connection and no requests."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serverlessllm.arena.mapping import map_extents
from serverlessllm.engine.base import Engine, EngineLimits, RegionFile, Weights
from serverlessllm.errors import EngineError
from serverlessllm.wire.worker import Attach, Attached


def bind(engine: Engine, attach: Attach, region_fd: int | None) -> Attached:
    """What `attach` asks for. Raises: EngineError, and as `Engine.attach_weights`."""
    started_s = time.perf_counter()
    region = map_region(region_fd, attach.extents)
    mapped_s = time.perf_counter()
    file = None if region_fd is None or not attach.extents else RegionFile(region_fd, attach.extents)
    report = engine.attach_weights(
        Weights(region, attach.layout, attach.shards, attach.num_ready, file),
        EngineLimits(
            attach.max_num_seqs, attach.max_model_len_tokens, attach.kv_cache_bytes, attach.packs_weights
        ),
        attach.options,
    )
    return Attached(
        map_ms=(mapped_s - started_s) * 1e3,
        bind_ms=(time.perf_counter() - mapped_s) * 1e3,
        max_model_len_tokens=report.max_model_len_tokens,
        copied_bytes=report.copied_bytes,
        block_tokens=report.block_tokens,
    )


def map_region(region_fd: int | None, extents: Sequence[tuple[int, int]]) -> memoryview:
    """The attached bytes, read-only; empty without extents. The mapping lives as long as any view of it.

    Raises: EngineError.
    """
    if not extents:
        return memoryview(b"")
    if region_fd is None:
        raise EngineError("the attach names extents but brought no descriptor of the arena")
    try:
        # Not populated ahead: for 256 MiB that costs what the faults cost (1 ms in 2 MiB pages, 26 ms in 4 KiB
        # ones), and the faults of a first prompt are spread over the compute threads.
        return map_extents(region_fd, extents, writable=False).view
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot map {len(extents)} extents of the arena: {error}") from error
