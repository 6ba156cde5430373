# SPDX-License-Identifier: Apache-2.0
"""Checks of `sllm doctor` about what processes share: the metadata store, S3, and the nodes. They change nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from serverlessllm.cli.checks import CheckResult
from serverlessllm.cli.node_checks import clock_beside
from serverlessllm.cli.units import bytes_text, count_text, duration_text
from serverlessllm.errors import CorruptDataError, SllmError
from serverlessllm.wire import WIRE_VERSION, is_compatible

if TYPE_CHECKING:
    from serverlessllm.config import Config
    from serverlessllm.wire.admin import AgentView

SLOW_STORE_S: Final = 0.1
"""A wake-up waits for one write of the store."""
DATE_TIMEOUT_S: Final = 5.0


def check_store(config: Config) -> CheckResult:
    """The metadata store answers, and how fast; a file of ours is only looked at."""
    from serverlessllm.metadata.location import parse_location

    try:
        location = parse_location(config.metadata.url, config.data_path)
        if location.path is not None:
            state = "is there" if location.path.exists() else "is made at the first start"
            return CheckResult("store", "ok", f"{location.path} {state}; for one machine")
        seconds, num_agents = asyncio.run(_ask_store(config))
    except SllmError as error:
        return CheckResult(
            "store", "fail", error.message, "start it, or correct metadata.url and its account"
        )
    finding = f"{location} answers in {duration_text(seconds)}, {count_text(num_agents, 'agent')} joined"
    if seconds > SLOW_STORE_S:
        return CheckResult(
            "store", "warn", finding, "put it closer: every wake-up waits for one of its writes"
        )
    return CheckResult("store", "ok", finding)


async def _ask_store(config: Config) -> tuple[float, int]:
    """Seconds for one look, and how many agents it holds. Raises as `open_store` and `range`."""
    from serverlessllm.metadata.keys import Keys
    from serverlessllm.metadata.open import open_store

    store = await open_store(config.metadata, config.data_path)
    try:
        started_s = time.perf_counter()
        entries, _ = await store.range(Keys.AGENTS)
        return time.perf_counter() - started_s, len(entries)
    finally:
        await store.close()


def check_s3(config: Config) -> CheckResult:
    """Where artifacts are published: the bucket answers to these credentials. Nothing is written."""
    from serverlessllm.config import source_environment
    from serverlessllm.sources.access import Access
    from serverlessllm.sources.s3 import S3Bucket

    place = config.ingest.publish
    if not place:
        return CheckResult("S3", "ok", "artifacts are published nowhere (ingest.publish)")
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    try:
        access = Access.from_config(
            config.sources, source_environment(), allow_private_urls=config.ingest.allow_private_urls
        )
        files = S3Bucket(bucket, access).list(prefix.rstrip("/"))
    except CorruptDataError:
        return CheckResult("S3", "ok", f"{place} answers, and is empty")
    except SllmError as error:
        advice = "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket"
        return CheckResult("S3", "fail", error.message, advice)
    held = sum(file.size_bytes or 0 for file in files)
    return CheckResult("S3", "ok", f"{place} holds {count_text(len(files), 'file')}, {bytes_text(held)}")


def check_agents(agents: Sequence[AgentView]) -> CheckResult:
    """Every node that the server knows is alive and takes work."""
    silent = [_name(view) for view in agents if not view.is_alive]
    drained = [_name(view) for view in agents if view.is_drained]
    alive = sum(view.is_alive for view in agents)
    finding = f"{alive} of {count_text(len(agents), 'node')} alive"
    if silent:
        advice = "look at its log and whether its port is reached; docs/runbooks/SllmHeartbeatLost.md"
        return CheckResult("agents", "warn", f"{finding}; silent: {', '.join(silent)}", advice)
    if drained:
        finding += f"; drained: {', '.join(drained)}"
        return CheckResult("agents", "warn", finding, "take it back with `sllm node undrain NODE`")
    return CheckResult("agents", "ok", finding)


def check_versions(agents: Sequence[AgentView]) -> CheckResult:
    """Everybody speaks a wire version that this program understands."""
    versions = {_name(view): view.status.wire_version for view in agents if view.status is not None}
    strange = [name for name, version in versions.items() if not is_compatible(version)]
    refused = [f"{_name(view)}: {view.problem}" for view in agents if view.problem]
    if strange or refused:
        finding = "; ".join(refused) or f"not understood: {', '.join(strange)}"
        return CheckResult("versions", "fail", finding, "upgrade the older ones; agents first")
    spoken = ", ".join(map(str, sorted(set(versions.values())))) or "none yet"
    return CheckResult("versions", "ok", f"wire version {WIRE_VERSION} here, {spoken} on the nodes")


def check_clocks(url: str) -> CheckResult:
    """Our clock against the server's, by the date of its answer."""
    import httpx

    try:
        answer = httpx.get(f"{url}/healthz", timeout=DATE_TIMEOUT_S)
        said = parsedate_to_datetime(answer.headers.get("date", ""))
    except (httpx.HTTPError, ValueError) as error:
        return CheckResult("clocks", "warn", f"{url} tells no time: {error}", "see --url")
    return clock_beside(url, said.timestamp())


def _name(view: AgentView) -> str:
    return view.address if view.status is None else view.status.agent_id
