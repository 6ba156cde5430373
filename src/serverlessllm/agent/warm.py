# SPDX-License-Identifier: Apache-2.0
"""Bytes brought into DRAM before they are called for: no slot, no seat, no replica. The next load finds them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from serverlessllm.agent.artifacts import OpenArtifacts
from serverlessllm.agent.load import NodeParts
from serverlessllm.agent.load_messages import bandwidths
from serverlessllm.agent.replica import ReplicaKey
from serverlessllm.loader.report import LoadProgress
from serverlessllm.wire.agent import LoadRequest, LoadResult


async def warm(parts: NodeParts, artifacts: OpenArtifacts, request: LoadRequest) -> LoadResult:
    """Read a revision into DRAM and parse its text. Raises as `Loader.load`; cancelled with its caller."""
    key = ReplicaKey(request.model, request.revision)
    try:
        opened = await artifacts.open(Path(request.artifact), request.revision, request.origins)
        parts.loader.note_losses({name: loss.evict_s for name, loss in request.losses.items()})
        report = await parts.loader.load(
            request.revision,
            opened.artifact,
            partial(_note, parts, key, opened.nbytes),
            origins=request.origins,
            priority=request.priority,
        )
        await parts.texts.get(opened.artifact)
    except BaseException as error:
        parts.reporter.load_failed(key, str(error) or "stopped")
        raise
    result = LoadResult(
        model=request.model,
        revision=request.revision,
        attempt=request.attempt,
        start="cold" if report.tier == "remote" else "warm",
        tier=report.tier,
        nbytes=report.nbytes,
        fetch_ms=report.fetch_ms,
        read_ms=report.read_ms,
        bind_ms=0.0,
        gbps=report.gbps,
        possible_gbps=report.possible_gbps,
        limiting=report.limiting,
    )
    if report.tier != "dram":
        parts.reporter.bandwidths_changed(bandwidths(parts.loader))
    parts.reporter.warmed(key, result)
    return result


def _note(parts: NodeParts, key: ReplicaKey, nbytes: int, progress: LoadProgress) -> None:
    phase = "fetch" if progress.is_fetching else "read"
    parts.reporter.load_progressed(key, phase, progress.done_bytes, nbytes, progress.eta_s)
