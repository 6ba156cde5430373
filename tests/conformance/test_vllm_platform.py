# SPDX-License-Identifier: Apache-2.0
"""A model registered with `--engine vllm` answers through the orchestrator; `make test-engines`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serverlessllm.engine.vllm_server.environment import environment_directory, is_built
from support.model_dirs import write_tiny_llama
from support.platform import Platform, eventually

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not is_built(""), reason=f"{environment_directory('')}: run `make engines`"),
]
START_TIMEOUT_S = 600.0
PROMPT = "The quick brown fox jumps over the lazy dog. " * 8


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("vllm")
    flags = {"orchestrator_hold_timeout_s": "600", "engine_threads": "2"}
    with Platform(home, **flags) as running:
        running.add("fox", write_tiny_llama(home / "llama", head_dim=32), engine="vllm")
        yield running


def complete(platform: Platform, **fields: Any) -> httpx.Response:
    body = {"model": "fox", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields}
    return httpx.post(f"{platform.url}/v1/completions", json=body, timeout=START_TIMEOUT_S)


def events(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line[6:]) for line in lines]


def test_sleeping_model_wakes_and_streams_with_a_truthful_timeline(platform: Platform) -> None:
    response = complete(platform, stream=True, stream_options={"include_usage": True})
    chunks = events(response)
    ids = [token_id for chunk in chunks for choice in chunk["choices"] for token_id in choice["token_ids"]]
    assert (len(ids), chunks[-1]["usage"]["completion_tokens"]) == (12, 12)
    assert response.text.endswith("data: [DONE]\n\n") or "[DONE]" in response.text
    timeline = json.loads(re.findall(r"^: timeline (\{.*\})$", response.text, re.MULTILINE)[0])
    assert timeline["bind"] > timeline["prefill"], timeline  # the start of the server is told as what it is


def test_repeated_prompt_reports_its_cached_tokens(platform: Platform) -> None:
    complete(platform)
    usage = complete(platform).json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_stop_string_ends_the_answer_in_the_agents_text(platform: Platform) -> None:
    whole = complete(platform).json()["choices"][0]["text"]
    stop = whole[2:4]
    cut = complete(platform, stop=stop).json()["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_client_that_leaves_frees_its_seat(platform: Platform) -> None:
    body = {"model": "fox", "prompt": "Once", "max_tokens": 300, "ignore_eos": True, "stream": True}
    url = f"{platform.url}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=START_TIMEOUT_S) as response:
        next(response.iter_lines())

    def is_idle() -> bool:
        with platform.client() as client:
            replicas = [
                replica for agent in client.agents() if agent.status for replica in agent.status.replicas
            ]
        return [replica.num_running for replica in replicas] == [0]

    eventually(is_idle)
