# SPDX-License-Identifier: Apache-2.0
"""A platform with a model in two ranks beside the same one in one: the same answers, and no trace of a dead rank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from serverlessllm.errors import RequestError
from support.model_dirs import write_tiny_llama
from support.platform import PATIENCE_S, Platform, eventually

PROMPT = [5, 81, 17, 300, 5, 999, 42, 7]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("ranks")
    flags = {"engine_dtype": "float32", "engine_threads": "2", "engine_tensor_parallel": "2"}
    with Platform(home, **flags) as platform:
        source = write_tiny_llama(home / "llama")
        platform.add("one", source, engine="torch")
        platform.add("two", source, engine="torch", options={"tensor_parallel_size": 2})
        yield platform


def ask(platform: Platform, model: str, max_tokens: int = 12) -> list[int]:
    """The ids of a streamed completion; an error event fails the test."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    ids: list[int] = []
    with httpx.stream("POST", f"{platform.url}/v1/completions", json=body, timeout=PATIENCE_S) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event: dict[str, Any] = json.loads(line[6:])
                ids += [each for choice in event["choices"] for each in choice["token_ids"]]
    return ids


def ranks(platform: Platform) -> list[psutil.Process]:
    """The processes of the replica in two ranks."""
    leader = psutil.Process(platform.worker_pid("two"))
    return [each for each in platform.processes() if each.name().startswith(leader.name())]


def test_two_ranks_answer_as_one_and_say_where_they_are(platform: Platform) -> None:
    assert ask(platform, "two") == ask(platform, "one")
    assert len(ranks(platform)) == 2
    with platform.client() as client:
        statuses = [replica.status for replica in client.get_model("two").replicas]
    assert [status.device_set for status in statuses] == ["cpu x2"]


def test_replica_whose_rank_died_is_replaced_before_anyone_sees_it(platform: Platform) -> None:
    expected = ask(platform, "two")
    before = ranks(platform)
    before[1].kill()
    assert ask(platform, "two") == expected
    eventually(lambda: not any(each.is_running() for each in before))


def test_sleep_ends_every_rank_and_the_next_call_wakes_them(platform: Platform) -> None:
    expected = ask(platform, "two")
    before = ranks(platform)
    with platform.client() as client:
        client.stop_model("two")
    eventually(lambda: not any(each.is_running() for each in before))
    assert ask(platform, "two") == expected


def test_ranks_that_no_node_offers_and_adapters_are_refused_at_model_add(platform: Platform) -> None:
    with platform.client() as client:
        with pytest.raises(RequestError, match="never spread over several nodes"):
            client.add_model("many", "/nowhere", options={"tensor_parallel_size": 64.0})
        with pytest.raises(RequestError, match="whole number"):
            client.add_model("half", "/nowhere", options={"tensor_parallel_size": 1.5})
        with pytest.raises(RequestError, match="runs no adapters"):
            client.add_model("two:adapter", "/nowhere")


def test_heads_that_do_not_divide_are_told_with_the_way_out(platform: Platform) -> None:
    source = write_tiny_llama(platform.home / "odd", num_attention_heads=3, num_key_value_heads=3)
    platform.add("odd", source, engine="torch", options={"tensor_parallel_size": 2})
    response = platform.post("/v1/completions", {"model": "odd", "prompt": PROMPT})
    assert response.status_code == 400
    assert "num_attention_heads: 3 do not divide among 2 ranks" in response.json()["error"]["message"]
