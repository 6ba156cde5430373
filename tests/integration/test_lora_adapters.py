# SPDX-License-Identifier: Apache-2.0
"""Adapters of users, as `model:adapter`, through the OpenAI package against a running platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from serverlessllm.errors import ConflictError, NotFoundError, SllmError
from serverlessllm.wire.admin import AgentView
from serverlessllm.wire.agent import ReplicaStatus
from support.model_dirs import write_tiny_llama
from support.peft_adapter import merged, random_adapter, write_adapter
from support.platform import Platform

PROMPT = [300, 301, 302, 303, 304]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


def adapter_of(base: Path, seed: int) -> dict[str, torch.Tensor]:
    with safe_open(base / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return random_adapter(shapes, seed=seed)


@pytest.fixture(scope="module")
def platform(home: Path) -> Iterator[Platform]:
    base = write_tiny_llama(home / "base")
    with Platform(home, engine_dtype="float32") as running:
        running.add("base", base, engine="torch")
        running.add("base:red", write_adapter(home / "red", adapter_of(base, 1)), engine="torch")
        running.add("base:blue", write_adapter(home / "blue", adapter_of(base, 2)), engine="torch")
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def first_logprobs(client: openai.OpenAI, model: str) -> tuple[str, dict[str, float]]:
    answer: Any = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=1, temperature=0, logprobs=3
    )
    assert answer.model == model
    return answer.choices[0].text, answer.choices[0].logprobs.top_logprobs[0]


def test_adapters_answer_as_the_merged_models_do(client: openai.OpenAI, home: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    adapters = {"base": None, "base:red": 1, "base:blue": 2}
    seen = {}
    for model, seed in adapters.items():
        reference = base if seed is None else merged(base, adapter_of(home / "base", seed))
        with torch.inference_mode():
            expected = reference(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
        _, top = first_logprobs(client, model)
        wanted = expected.topk(3).values.tolist()
        assert sorted(top.values(), reverse=True) == pytest.approx(wanted, abs=1e-4)
        seen[model] = tuple(sorted(top))
    assert len(set(seen.values())) > 1


def test_all_are_listed_and_share_one_worker(client: openai.OpenAI, platform: Platform) -> None:
    assert {model.id for model in client.models.list()} == {"base", "base:red", "base:blue"}
    assert client.models.retrieve("base:red").id == "base:red"
    for model in ("base", "base:red", "base:blue"):
        first_logprobs(client, model)
    with platform.client() as admin:
        replicas = [replica.model for agent in admin.agents() for replica in _replicas(agent)]
    assert replicas == ["base"]


def _replicas(agent: AgentView) -> list[ReplicaStatus]:
    return [] if agent.status is None else agent.status.replicas


def test_adapter_streams_after_its_base_was_put_to_sleep(client: openai.OpenAI, platform: Platform) -> None:
    arguments: Any = {"model": "base:red", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12}
    whole = client.chat.completions.create(**arguments, temperature=0).choices[0].message.content
    with platform.client() as admin:
        admin.stop_model("base")
    chunks = list(client.chat.completions.create(**arguments, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert {chunk.model for chunk in chunks} == {"base:red"}


def test_unknown_adapter_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        first_logprobs(client, "base:green")
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="base:red", input="x")
    assert caught.value.param == "model"


def test_what_cannot_be_an_adapter_is_refused(platform: Platform, home: Path) -> None:
    dora = write_adapter(home / "dora", adapter_of(home / "base", 3), use_dora=True)
    with platform.client() as admin:
        with pytest.raises(SllmError, match="use_dora"):
            admin.add_model("base:dora", str(dora), engine="torch", wait=True)
        with pytest.raises(NotFoundError):
            admin.add_model("nobody:red", str(home / "red"), engine="torch", wait=True)
        with pytest.raises(ConflictError, match="base:blue.*base:red"):
            admin.remove_model("base")


def test_removed_adapter_is_gone_and_its_base_stays(
    platform: Platform, home: Path, client: openai.OpenAI
) -> None:
    platform.add("base:gone", write_adapter(home / "gone", adapter_of(home / "base", 4)), engine="torch")
    first_logprobs(client, "base:gone")
    with platform.client() as admin:
        admin.remove_model("base:gone")
    with pytest.raises(openai.NotFoundError):
        first_logprobs(client, "base:gone")
    first_logprobs(client, "base")
