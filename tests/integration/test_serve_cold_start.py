# SPDX-License-Identifier: Apache-2.0
"""Sleep and wake: one load for many, weights that stay in memory, scale to zero, a budget smaller than the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serverlessllm.engine.simulated.engine import expected_ids
from support.model_dirs import write_simulated
from support.platform import Platform, eventually

MIB = 1 << 20


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with Platform(tmp_path, arena_budget_bytes="96MiB") as running:
        yield running


def metric(platform: Platform, name: str) -> float:
    text = httpx.get(f"{platform.url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def ids_of(response: httpx.Response) -> list[int]:
    assert response.status_code == 200, response.text
    return list(response.json()["choices"][0]["token_ids"])


def test_64_calls_to_a_sleeping_model_cause_one_load_and_get_64_answers(
    platform: Platform, tmp_path: Path
) -> None:
    platform.add("m", write_simulated(tmp_path / "m", nbytes=8 * MIB), options={"load_s": 0.3})
    with ThreadPoolExecutor(64) as pool:
        calls = [pool.submit(platform.chat, "m", f"call {n}", max_tokens=12, seed=n) for n in range(64)]
        answers = [ids_of(call.result()) for call in calls]
    assert all(len(answer) == 12 for answer in answers)
    assert len({tuple(answer) for answer in answers}) == 64
    assert metric(platform, "sllm_wakes_total") == 1


def test_every_id_of_an_answer_is_the_expected_one(platform: Platform, tmp_path: Path) -> None:
    platform.add("m", write_simulated(tmp_path / "m"))
    prompt = [10, 11, 12]
    response = platform.post("/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 40, "seed": 5})
    ids = ids_of(response)
    assert ids == expected_ids(prompt, 5, 0, 40, vocab_size=1024)[: len(ids)]


def test_an_idle_model_scales_to_zero_and_keeps_its_bytes(tmp_path: Path) -> None:
    with Platform(tmp_path, orchestrator_keep_alive_s="0.3") as platform, platform.client() as client:
        platform.add("m", write_simulated(tmp_path / "m", nbytes=8 * MIB))
        assert platform.chat("m", max_tokens=2).status_code == 200
        view = eventually(lambda: None if (seen := client.get_model("m")).replicas else seen)
        assert view.tier == "dram"
        assert platform.chat("m", max_tokens=2).status_code == 200
        assert client.requests(1)[0].start == "warm"


def test_more_models_than_memory_answer_under_concurrent_calls(platform: Platform, tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(8)]
    for number, name in enumerate(names):
        platform.add(name, write_simulated(tmp_path / name, nbytes=24 * MIB, variant=number))
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(platform.chat, names[n % 8], f"{n}", max_tokens=4) for n in range(48)]
        assert [call.result().status_code for call in calls] == [200] * 48
    with platform.client() as client:
        status = client.agents()[0].status
        assert status is not None
        assert status.arena_used_bytes <= 96 * MIB


def test_a_model_larger_than_the_budget_is_refused_by_name_of_the_limit(
    platform: Platform, tmp_path: Path
) -> None:
    platform.add("big", write_simulated(tmp_path / "big", nbytes=128 * MIB))
    response = platform.chat("big")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "insufficient_memory"
    platform.add("small", write_simulated(tmp_path / "small"))
    assert platform.chat("small", max_tokens=1).status_code == 200


def test_a_client_that_leaves_cancels_the_load_it_waited_for(platform: Platform, tmp_path: Path) -> None:
    platform.add("m", write_simulated(tmp_path / "m"), options={"load_s": 30.0})
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with httpx.stream("POST", f"{platform.url}/v1/chat/completions", json=body, timeout=60) as response:
        assert next(response.iter_text()).startswith(": loading")
    with platform.client() as client:
        eventually(lambda: client.get_model("m").num_held == 0 and not client.get_model("m").loads)
        eventually(lambda: not client.get_model("m").replicas)


def test_a_client_that_leaves_in_mid_answer_frees_its_place(platform: Platform, tmp_path: Path) -> None:
    platform.add("m", write_simulated(tmp_path / "m"), options={"token_s": 0.05})
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 4000}
    with httpx.stream("POST", f"{platform.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_text())
    with platform.client() as client:
        eventually(lambda: all(r.status.num_running == 0 for r in client.get_model("m").replicas))


def test_stop_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    with Platform(tmp_path) as platform:
        platform.add("m", write_simulated(tmp_path / "m", nbytes=8 * MIB))
        assert platform.chat("m", max_tokens=1).status_code == 200
        children = platform.processes()
        assert children
    eventually(lambda: not any(child.is_running() for child in children))
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])
    ]
