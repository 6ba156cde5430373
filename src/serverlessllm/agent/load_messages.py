# SPDX-License-Identifier: Apache-2.0
"""What a load says to the worker that it binds, and to who asked for it. Pure; moves nothing."""

from __future__ import annotations

from typing import Final

from serverlessllm.agent.artifacts import OpenArtifact
from serverlessllm.agent.replica import Replica
from serverlessllm.agent.weight_stream import WeightStream
from serverlessllm.arena.arena import Arena
from serverlessllm.config import EngineConfig
from serverlessllm.loader.loader import Loader
from serverlessllm.loader.report import LoadReport
from serverlessllm.types import Tier
from serverlessllm.wire.agent import BandwidthStatus, LoadRequest, LoadResult
from serverlessllm.wire.worker import Attach

READ_TIERS: Final[tuple[Tier, ...]] = ("nvme", "remote")


def attach_of(
    config: EngineConfig,
    arena: Arena,
    request: LoadRequest,
    opened: OpenArtifact,
    stream: WeightStream | None,
) -> Attach:
    """What the worker binds: the whole region, or with `stream` one that is still arriving."""
    region = arena.get(opened.artifact.revision) if stream is None else stream.incoming
    options = dict(request.options)
    if request.engine == "simulated":
        options = {
            "load_s": config.simulated_load_s,
            "prefill_s": config.simulated_prefill_s,
            "token_s": config.simulated_token_s,
        } | options
    return Attach(
        revision=opened.artifact.revision,
        layout=opened.layout,
        extents=[] if region is None else list(region.extents),
        max_num_seqs=config.max_num_seqs,
        max_model_len_tokens=config.max_model_len_tokens,
        options=options,
        kv_cache_bytes=config.kv_cache_bytes,
        packs_weights=config.packed_weights,
        shards=[] if stream is None else list(stream.incoming.shards),
        num_ready=0 if stream is None else stream.incoming.num_ready,
    )


def result_of(replica: Replica, report: LoadReport, bind_ms: float) -> LoadResult:
    """A load whose bytes are all there."""
    return LoadResult(
        model=replica.key.model,
        revision=replica.key.revision,
        attempt=replica.attempt,
        start="cold" if report.tier == "remote" else "warm",
        tier=report.tier,
        nbytes=report.nbytes,
        fetch_ms=report.fetch_ms,
        read_ms=report.read_ms,
        bind_ms=bind_ms,
        gbps=report.gbps,
        possible_gbps=report.possible_gbps,
        limiting=report.limiting,
    )


def early_result_of(replica: Replica, stream: WeightStream, moved_ms: float, bind_ms: float) -> LoadResult:
    """A load whose bytes still arrive: they did for `moved_ms` when binding began."""
    load = stream.summary()
    is_remote = load.tier == "remote"
    return LoadResult(
        model=replica.key.model,
        revision=replica.key.revision,
        attempt=replica.attempt,
        start=load.start,
        tier=load.tier,
        nbytes=load.nbytes,
        fetch_ms=moved_ms if is_remote else 0.0,
        read_ms=0.0 if is_remote else moved_ms,
        bind_ms=bind_ms,
        gbps=0.0,
        possible_gbps=0.0,
        limiting="",
        is_streaming=True,
    )


def hot_result_of(replica: Replica) -> LoadResult:
    """A replica that takes requests already."""
    return LoadResult(
        model=replica.key.model,
        revision=replica.key.revision,
        attempt=replica.attempt,
        start="hot",
        tier="dram",
        nbytes=replica.nbytes,
        fetch_ms=0.0,
        read_ms=0.0,
        bind_ms=0.0,
        gbps=0.0,
        possible_gbps=0.0,
        limiting="",
        is_streaming=replica.is_loading,
    )


def bandwidths(loader: Loader) -> list[BandwidthStatus]:
    """What the loader observed, as the wire says it: each tier that is read from, then each disk and origin."""
    by_tier = [(tier, "", loader.bandwidth(tier)) for tier in READ_TIERS]
    by_source = [(tier, source, estimate) for (tier, source), estimate in loader.source_bandwidths().items()]
    return [
        BandwidthStatus(
            tier,
            estimate.mean_bytes_per_s,
            estimate.variance,
            estimate.samples,
            source,
            loader.possible_bytes_per_s(tier) if not source else 0.0,
        )
        for tier, source, estimate in by_tier + by_source
    ]
