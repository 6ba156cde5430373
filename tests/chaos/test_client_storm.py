# SPDX-License-Identifier: Apache-2.0
"""Two hundred clients of all manners, many of whom leave, against `sllm serve`: nothing of them is left behind.

A block that leaked would end the worker: the engine compares all references whenever it becomes idle.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.model_dirs import write_tiny_llama
from support.platform import PATIENCE_S, Platform, eventually

SEED: Final = 7_411
NUM_REQUESTS: Final = 200
NUM_AT_ONCE: Final = 48
MODEL: Final = "m"
WORDS: Final = ("the", "quick", "brown", "fox", "jumps", "over", "what", "it", "knows")
KV_CACHE: Final = "512KiB"
"""32 blocks of the tiny model: eight long answers do not fit, so that some are preempted."""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    flags = {"engine_max_num_seqs": "8", "engine_kv_cache_bytes": KV_CACHE, "engine_dtype": "float32"}
    with Platform(tmp_path, **flags) as running:
        running.add(MODEL, write_tiny_llama(tmp_path / "m"), engine="torch")
        yield running


class Client:
    """One request drawn at random, and how its client behaves."""

    def __init__(self, draw: random.Random) -> None:
        shared = "Please answer briefly. " * draw.randrange(8)
        question = shared + " ".join(draw.choices(WORDS, k=draw.randrange(1, 40)))
        self.body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": draw.choice((1, 5, 40, 150)),
            "seed": draw.randrange(1_000),
            "n": draw.choice((1, 1, 1, 3)),
            "stream": draw.random() < 0.7,
            "stop": draw.choice((None, ["e"], ["the", "q"])),
        }
        self.patience_s = draw.choice((None, None, draw.random() / 4))
        self.num_lines = draw.choice((None, None, draw.randrange(1, 30)))

    async def run(self, http: httpx.AsyncClient) -> str:
        """What became of it: left, cut, done, or an error's status."""
        try:
            async with asyncio.timeout(self.patience_s):
                return await self._ask(http)
        except TimeoutError:
            return "left"

    async def _ask(self, http: httpx.AsyncClient) -> str:
        num_lines, last = 0, ""
        async with http.stream("POST", "/v1/chat/completions", json=self.body) as response:
            if response.status_code != 200:
                return str(response.status_code)
            async for line in response.aiter_lines():
                num_lines += 1
                last = line or last
                if self.body["stream"] and num_lines == self.num_lines:
                    return "left"
        return "done" if not self.body["stream"] or last == "data: [DONE]" else "cut"


async def storm(url: str) -> Counter[str]:
    draw = random.Random(SEED)
    clients = [Client(draw) for _ in range(NUM_REQUESTS)]
    gate = asyncio.Semaphore(NUM_AT_ONCE)

    async def one(client: Client) -> str:
        async with gate:
            return await client.run(http)

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        return Counter(await asyncio.gather(*(one(client) for client in clients)))


def test_storm_of_clients_leaves_no_request_block_pin_or_process(platform: Platform) -> None:
    print(f"seed {SEED}")  # noqa: T201  # shown when the test fails
    assert platform.chat(MODEL, max_tokens=2).status_code == 200
    pid, processes = platform.worker_pid(MODEL), pids(platform)
    outcomes = asyncio.run(storm(platform.url))
    assert set(outcomes) == {"left", "done"}, outcomes
    assert min(outcomes.values()) > NUM_REQUESTS / 10, outcomes
    eventually(lambda: is_at_rest(platform))
    assert platform.chat(MODEL, "One more.", max_tokens=40).status_code == 200
    assert platform.worker_pid(MODEL) == pid, "the worker died: it found a leaked block, or crashed"
    assert pids(platform) == processes
    with platform.client() as client:
        client.stop_model(MODEL)
    eventually(lambda: not pinned(platform))
    eventually(lambda: pids(platform) == processes - {pid})


def pids(platform: Platform) -> set[int]:
    return {process.pid for process in platform.processes()}


def is_at_rest(platform: Platform) -> bool:
    """Whether no request is held, queued or running, as the front, the agent and the metrics see it."""
    with platform.client() as client:
        requests = client.requests(1000)
        replicas = [replica.status for replica in client.get_model(MODEL).replicas]
    text = httpx.get(f"{platform.url}/metrics").text
    gauges = re.findall(r"^sllm_(?:streams|held_requests)(?:{[^}]*})? (\S+)$", text, re.MULTILINE)
    return (
        all(request.state not in ("held", "running") for request in requests)
        and all(status.num_running == status.num_queued == 0 for status in replicas)
        and not any(float(value) for value in gauges)
    )


def pinned(platform: Platform) -> list[str]:
    with platform.client() as client:
        status = client.agents()[0].status
    return [region.revision for region in status.regions if region.is_pinned] if status else ["unknown"]
