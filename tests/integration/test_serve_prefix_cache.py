# SPDX-License-Identifier: Apache-2.0
"""Prompts are computed once: over the turns of a chat, never over tenants; and orchestrators are told which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
import pytest

from serverlessllm.orchestrator.cache_salts import CacheSalts
from serverlessllm.sdk.agent import AgentClient
from serverlessllm.sdk.orchestrator import Client
from serverlessllm.wire import openai
from serverlessllm.wire.events import Snapshot
from serverlessllm.wire.prompt_chunks import canonical_text, chunk_names
from support.model_dirs import write_reciting_llama
from support.platform import PATIENCE_S, Platform, eventually

MODEL = "reciter"
TEXT = " The quick brown fox jumps over the lazy dog."
Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("prefix")
    with Platform(home) as running:
        running.add(MODEL, write_reciting_llama(home / "m", TEXT), engine="torch")
        yield running


def chat(platform: Platform, messages: Messages, *, key: str = "", max_tokens: int = 240) -> dict[str, Any]:
    body = {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    response = httpx.post(
        f"{platform.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_S
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def cached_tokens(answer: dict[str, Any]) -> int:
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def first_turn(topic: str) -> Messages:
    system = f"You answer questions about {topic}. " + "Explain every step of it briefly. " * 20
    return [{"role": "system", "content": system}, {"role": "user", "content": "What is known of it?"}]


def second_turn(first: Messages, answer: dict[str, Any]) -> Messages:
    said = answer["choices"][0]["message"]
    return [*first, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": "Why?"}]


def secret(platform: Platform) -> str:
    return (platform.home / "d" / "secret").read_text().strip()


async def told_names(platform: Platform) -> set[int]:
    """The prompt chunks in the snapshot that a new follower of the agent gets."""
    with platform.client() as client:
        address = client.agents()[0].address
    agent = AgentClient(address, secret(platform))
    try:
        async with aclosing(agent.events(None)) as events:
            async for _, event in events:
                if isinstance(event, Snapshot):
                    return {name for chunks in event.kv for name in chunks.names}
    finally:
        await agent.aclose()
    raise AssertionError("no snapshot came")


def test_second_turn_computes_less_than_a_tenth_of_the_first_again(platform: Platform) -> None:
    first = first_turn("rivers")
    answer = chat(platform, first)
    assert answer["choices"][0]["message"]["content"].startswith(TEXT)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 240
    again = chat(platform, second_turn(first, answer), max_tokens=2)
    assert cached_tokens(again) >= 0.9 * (usage["prompt_tokens"] + usage["completion_tokens"])


async def test_follower_of_the_agent_knows_the_second_turns_prompt_before_it_is_sent(
    platform: Platform,
) -> None:
    first = first_turn("mountains")
    turn = second_turn(first, chat(platform, first))
    text = canonical_text(openai.parse_chat(msgspec.json.encode({"model": MODEL, "messages": turn})))
    salt = CacheSalts(secret(platform)).of("default")
    num_first = len(chunk_names(text[: text.rindex(b"Why?")], salt))
    told = await told_names(platform)
    assert num_first >= 3
    assert told >= set(chunk_names(text, salt)[:num_first])
    assert not told & set(chunk_names(text, "guessed"))


def test_hits_are_told_by_request_and_by_model(platform: Platform) -> None:
    messages = first_turn("clouds")
    for _ in range(2):
        answer = chat(platform, messages, max_tokens=2)
    with platform.client() as client:
        view = eventually(
            lambda: next((found for found in client.requests(20) if found.request_id == answer["id"]), None)
        )
    assert view.cached_tokens == cached_tokens(answer) > 0
    text = httpx.get(f"{platform.url}/metrics").text
    ratio = re.search(rf'^sllm_kv_hit_ratio{{model="{MODEL}"}} (\S+)$', text, re.MULTILINE)
    assert ratio is not None and 0.0 < float(ratio[1]) < 1.0


def test_two_tenants_with_the_same_prompt_share_nothing(platform: Platform) -> None:
    """The last test here: from its first key on, every call needs one."""
    with platform.client() as client:
        root = client.create_key("root", "admin").secret
    with Client(platform.url, api_key=root) as client:
        keys = {name: client.create_key(name, "infer", name).secret for name in ("acme", "globex")}
    messages = first_turn("secrets")
    assert cached_tokens(chat(platform, messages, key=keys["acme"], max_tokens=2)) == 0
    assert cached_tokens(chat(platform, messages, key=keys["globex"], max_tokens=2)) == 0
    for key in keys.values():
        assert cached_tokens(chat(platform, messages, key=key, max_tokens=2)) > 200
