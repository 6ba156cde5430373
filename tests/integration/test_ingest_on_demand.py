# SPDX-License-Identifier: Apache-2.0
"""The whole road on a real platform: a model known by its hub id alone is called, fetched, converted, and answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.hub_objects import directory_files, hub_objects
from support.model_dirs import write_simulated, write_tiny_llama
from support.plain_reader import read_tensors
from support.platform import PATIENCE_S, Platform, eventually
from support.ranged_server import RangedServer

MIB = 1 << 20


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangedServer]:
    home = tmp_path_factory.mktemp("hub")
    objects = hub_objects("org/llama", directory_files(write_tiny_llama(home / "llama")))
    for number in range(3):
        source = write_simulated(home / f"sim{number}", nbytes=64 * MIB, variant=number)
        objects |= hub_objects(f"org/sim{number}", directory_files(source))
    with RangedServer(objects) as server:
        yield server


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, hub: RangedServer) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform")
    env = {"HF_ENDPOINT": hub.url(""), "SLLM_INGEST_ALLOW_PRIVATE_URLS": "yes"}
    with Platform(home, env, sources_connections="2", arena_budget_bytes="256MiB") as running:
        yield running


@pytest.fixture(autouse=True)
def fast(hub: RangedServer) -> None:
    hub.bytes_per_s = None


def sllm(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serverlessllm.cli.main", *arguments, "--url", platform.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def stream(platform: Platform, model: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Comments and events of a streamed chat."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    answer = httpx.post(f"{platform.url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
    lines = answer.text.split("\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [line[2:] for line in lines if line.startswith(": ")], [json.loads(event) for event in events]


def test_first_call_of_a_hub_id_fetches_converts_loads_and_answers(
    platform: Platform, hub: RangedServer
) -> None:
    assert "first call" in sllm(platform, "model", "add", "llama", "org/llama").stderr
    comments, events = stream(platform, "llama")
    assert events[-1]["choices"][0]["finish_reason"] in ("length", "stop")
    assert sum(len(event["choices"][0]["token_ids"]) for event in events) == 4
    with platform.client() as client:
        view, request = client.get_model("llama"), client.requests(1)[0]
    assert (request.start, request.tier) == ("cold", "remote") and request.phases["fetch"] > 0
    assert view.resolved is not None and view.resolved.startswith("hf://org/llama@")
    artifact = platform.home / "d" / "artifacts" / (view.revision or "")
    weights = hub.objects[f"/org/llama/resolve/{view.resolved.partition('@')[2]}/model.safetensors"]
    header_bytes = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + header_bytes])
    for name, data in read_tensors(artifact).items():
        if name in header:
            start, end = header[name]["data_offsets"]
            assert data == weights[8 + header_bytes + start : 8 + header_bytes + end]


def test_held_stream_is_told_how_far_the_fetch_is(platform: Platform, hub: RangedServer) -> None:
    hub.bytes_per_s = 32 * MIB
    with platform.client() as client:
        client.add_model("sim0", "hf://org/sim0", engine="simulated")
    comments, _ = stream(platform, "sim0")
    assert any(comment.startswith("fetching ") and "eta" in comment for comment in comments), comments
    timeline = json.loads(comments[-1].removeprefix("timeline "))
    assert (timeline["start"], timeline["tier"]) == ("cold", "remote")


def test_client_that_leaves_keeps_what_arrived_for_the_next(platform: Platform, hub: RangedServer) -> None:
    hub.bytes_per_s = 16 * MIB  # 64 MiB in all: about half of it comes before the client leaves
    with platform.client() as client:
        client.add_model("sim1", "hf://org/sim1", engine="simulated")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{platform.url}/v1/chat/completions",
                json={"model": "sim1", "messages": [{"role": "user", "content": "x"}]},
                timeout=httpx.Timeout(PATIENCE_S, read=2.0),
            )
        eventually(lambda: client.get_model("sim1").progress is None)
        hub.bytes_per_s, sent_bytes = None, hub.served.nbytes
        assert platform.chat("sim1", max_tokens=2).status_code == 200
    assert hub.served.nbytes - sent_bytes < 60 * MIB


def test_pull_brings_the_bytes_before_anybody_calls(platform: Platform) -> None:
    assert sllm(platform, "model", "add", "sim2", "hf://org/sim2", "--engine", "simulated").returncode == 0
    with platform.client() as client:
        assert client.get_model("sim2").state == "remote"
        pulled = sllm(platform, "model", "pull", "sim2")
        assert pulled.returncode == 0 and "is here" in pulled.stderr
        assert client.get_model("sim2").state == "ready"
    assert sllm(platform, "model", "pull", "sim2", "--json").returncode == 0
    assert platform.chat("sim2", max_tokens=2).status_code == 200


def test_repository_that_does_not_exist_is_an_error_and_no_loop(platform: Platform) -> None:
    with platform.client() as client:
        client.add_model("nobody", "hf://org/nobody")
    reply = platform.chat("nobody", max_tokens=2)
    assert reply.status_code == 502
    assert "hf://org/nobody" in reply.json()["error"]["message"]
    failed = sllm(platform, "model", "pull", "nobody")
    assert failed.returncode == 1 and "hf://org/nobody" in failed.stderr


def test_damaged_artifact_is_fetched_again_and_the_client_gets_its_answer(platform: Platform) -> None:
    with platform.client() as client:
        revision = client.get_model("sim2").revision or ""
        client.stop_model("sim2", drop_bytes=True)
        weights = platform.home / "d" / "artifacts" / revision / "model.bin"
        weights.unlink()
        assert platform.chat("sim2", max_tokens=2).status_code == 200
        assert client.get_model("sim2").revision == revision
