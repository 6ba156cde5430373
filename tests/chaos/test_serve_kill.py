# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of a worker and of the whole platform: clear errors, nothing lost, nothing half-written, no orphans."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, Platform, eventually

MIB = 1 << 20


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform(tmp_path) as running:
        yield running


def stream(platform: Platform, model: str, max_tokens: int) -> bytes:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "max_tokens": max_tokens,
    }
    return httpx.post(f"{platform.url}/v1/chat/completions", json=body, timeout=PATIENCE_S).content


def last_event(data: bytes) -> dict[str, object]:
    """The last event before `[DONE]`."""
    events = [part for part in data.split(b"\n\n") if b"data: " in part]
    assert events[-1].endswith(b"data: [DONE]"), data[-200:]
    event: dict[str, object] = json.loads(events[-2].split(b"data: ", 1)[1])
    return event


def test_worker_killed_in_mid_decode_costs_its_clients_nothing(platform: Platform, tmp_path: Path) -> None:
    platform.add("m", write_simulated(tmp_path / "m"), options={"token_s": 0.02})
    platform.add("other", write_simulated(tmp_path / "other", variant=1), options={"token_s": 0.02})
    with ThreadPoolExecutor(8) as pool:
        doomed = [pool.submit(stream, platform, "m", 200) for _ in range(3)]
        spared = pool.submit(stream, platform, "other", 60)
        pid = platform.worker_pid("m")
        eventually(lambda: running(platform, "m") == 3)
        os.kill(pid, signal.SIGKILL)
        for call in doomed:
            assert "error" not in last_event(call.result())
            assert b"\nid: 200\n" in call.result()
        assert "error" not in last_event(spared.result())
    assert b"worker_lost" not in stream(platform, "m", 3)


def running(platform: Platform, model: str) -> int:
    with platform.client() as client:
        return sum(replica.status.num_running for replica in client.get_model(model).replicas)


def test_worker_killed_in_mid_load_is_replaced_without_the_client_noticing(
    platform: Platform, tmp_path: Path
) -> None:
    platform.add("m", write_simulated(tmp_path / "m"), options={"load_s": 2.0})
    before = {process.pid for process in platform.processes()}
    with ThreadPoolExecutor(1) as pool:
        call: Future[httpx.Response] = pool.submit(platform.chat, "m", max_tokens=3)
        pid = eventually(lambda: binding_pid(platform, "m"))
        assert pid in before | {process.pid for process in platform.processes()}
        os.kill(pid, signal.SIGKILL)
        assert call.result().status_code in (200, 502)
    assert platform.chat("m", max_tokens=3).status_code == 200


def binding_pid(platform: Platform, model: str) -> int:
    with platform.client() as client:
        found = [r.status.pid for r in client.get_model(model).replicas if r.status.state == "binding"]
    return next((pid for pid in found if pid), 0)


def test_platform_killed_comes_back_with_its_models_and_its_memory(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    with platform:
        platform.add("m", write_simulated(tmp_path / "m", nbytes=8 * MIB))
        platform.add("n", write_simulated(tmp_path / "n", nbytes=8 * MIB, variant=1))
        assert platform.chat("m", max_tokens=2).status_code == 200
        children = platform.processes()
        platform.server.kill()
        eventually(lambda: not any(alive(child) for child in children))
        platform.server.start()
        with platform.client() as client:
            assert [(view.name, view.state) for view in client.models()] == [("m", "ready"), ("n", "ready")]
            status = eventually(lambda: client.agents()[0].status)
            assert [region.revision for region in status.regions] == [client.get_model("m").revision]
        assert platform.chat("m", max_tokens=2).status_code == 200
        assert platform.chat("n", max_tokens=2).status_code == 200
        with platform.client() as client:
            assert {request.tier for request in client.requests(2)} == {"dram", "nvme"}


def alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def test_platform_killed_in_mid_conversion_serves_nothing_half_written(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    source = write_simulated(tmp_path / "big", nbytes=512 * MIB)
    with platform:
        with platform.client() as client:
            client.add_model("big", str(source), engine="simulated")
            eventually(lambda: list((tmp_path / "d" / "artifacts").iterdir()))
        children = platform.processes()
        platform.server.kill()
        eventually(lambda: not any(alive(child) for child in children))
        platform.server.start()
        with platform.client() as client:
            view = eventually(
                lambda: None if (seen := client.get_model("big")).state == "registering" else seen
            )
        assert view.state == "ready"
        names = [path.name for path in (tmp_path / "d" / "artifacts").iterdir()]
        assert names == [view.revision]


def test_platform_killed_in_mid_load_adopts_no_half_read_region(tmp_path: Path) -> None:
    platform = Platform(tmp_path, arena_budget_bytes="768MiB")
    with platform:
        platform.add("big", write_simulated(tmp_path / "big", nbytes=512 * MIB))
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(_ignore_errors, platform)
            eventually(lambda: loads(platform))
            platform.server.kill()
            call.result()
        platform.server.start()
        with platform.client() as client:
            status = eventually(lambda: client.agents()[0].status)
        assert status.regions == []
        assert status.arena_used_bytes == 0
        assert platform.chat("big", max_tokens=2).status_code == 200


def _ignore_errors(platform: Platform) -> None:
    with pytest.raises(httpx.HTTPError):
        platform.chat("big", max_tokens=2)


def loads(platform: Platform) -> bool:
    with platform.client() as client:
        return bool(client.get_model("big").loads)
