# SPDX-License-Identifier: Apache-2.0
"""The whole road on a real platform: a model is fetched from a slow origin, and answers as it does when it is hot."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks._harness.model_origins import set_origins

from serverlessllm.checkpoint.reader import Artifact
from support.gated_origin import GatedOrigin, gated_origin
from support.model_dirs import write_tiny_llama
from support.platform import PATIENCE_S, Platform, eventually

MIB = 1 << 20
SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 3, "head_dim": 64}
SHAPE |= {"num_attention_heads": 8, "num_key_value_heads": 4}
PROMPT = [5, 81, 17, 300, 5, 999, 42, 7]


@dataclass
class Answer:
    """A stream as its client saw it."""

    comments: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [i for event in self.events for choice in event["choices"] for i in choice["token_ids"]]

    @property
    def timeline(self) -> dict[str, Any]:
        return dict(json.loads(self.comments[-1].removeprefix("timeline ")))


class Road:
    """A platform whose model lies at a gated origin only."""

    def __init__(self, platform: Platform, origin: GatedOrigin) -> None:
        self.platform = platform
        self.origin = origin
        self.here = platform.home / "d" / "artifacts" / origin.artifact.revision

    def put_to_sleep(self) -> None:
        """Nothing of the model is on the node."""
        fetching = self.here.with_name(f".fetch-{self.here.name}")
        with self.platform.client() as client:
            client.stop_model("m", drop_bytes=True)
        eventually(lambda: not fetching.exists())
        shutil.rmtree(self.here, ignore_errors=True)
        self.origin.open_bytes, self.origin.bad_bytes = 0, None

    def busy_worker(self) -> int | None:
        """The process that has a request of ours."""
        with self.platform.client() as client:
            statuses = [replica.status for replica in client.get_model("m").replicas]
        return next((status.pid for status in statuses if status.num_running), None)

    def stream(self, *, on_comment: Callable[[], object] | None = None) -> Answer:
        """Ask for a completion. At each comment call `on_comment`; by default the origin then sends everything."""
        body = {"model": "m", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True}
        answer = Answer()
        url = f"{self.platform.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=PATIENCE_S) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                if line.startswith(": "):
                    answer.comments.append(line[2:])
                    (on_comment or self.origin.let)()
                elif line.startswith("data: {"):
                    answer.events.append(json.loads(line[6:]))
        return answer


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    home = tmp_path_factory.mktemp("stream")
    platform = Platform(home, engine_dtype="float32")
    platform.server._env |= {"SLLM_INGEST_ALLOW_PRIVATE_URLS": "yes"}
    with platform:
        platform.add("m", write_tiny_llama(home / "llama", **SHAPE), engine="torch")
        with platform.client() as client:
            revision = client.get_model("m").revision or ""
        artifact = Artifact.open(home / "d" / "artifacts" / revision)
        with gated_origin(
            Artifact.open(Path(shutil.copytree(artifact.directory, home / "origin")))
        ) as origin:
            set_origins(home / "d", "m", [origin.url])
            with platform.client() as client:
                eventually(lambda: client.get_model("m").origins)
            yield Road(platform, origin)


def test_streamed_answer_equals_the_hot_one_and_tells_how_far_it_is(road: Road) -> None:
    road.put_to_sleep()
    cold = road.stream()
    hot = road.stream()
    assert len(cold.token_ids) == 12
    assert cold.token_ids == hot.token_ids
    assert any(comment.startswith("loading ") and "eta" in comment for comment in cold.comments)
    timeline = cold.timeline
    assert (timeline["start"], timeline["tier"]) == ("cold", "remote")
    assert timeline["fetch"] > 0 < timeline["prefill"]
    assert timeline["load"] > timeline["fetch"] - 1000
    phases = ("queue", "place", "fetch", "read", "bind", "prefill", "first_token")
    assert sum(timeline[phase] for phase in phases) == pytest.approx(timeline["ttft"], rel=0.01)


def test_worker_killed_beside_the_load_is_retried_in_silence(road: Road) -> None:
    expected = hot_ids(road)
    road.put_to_sleep()
    killed: set[int] = set()

    def kill_then_let() -> None:
        if not killed:
            killed.add(eventually(lambda: road.busy_worker()))
            os.kill(next(iter(killed)), signal.SIGKILL)
        elif road.busy_worker() not in killed:
            road.origin.let()

    answer = road.stream(on_comment=kill_then_let)
    assert len(killed) == 1
    assert answer.token_ids == expected


def test_origin_that_turns_bad_costs_time_but_no_answer(road: Road) -> None:
    """What no origin has right is converted again from the model's source, while the request is held."""
    expected = hot_ids(road)
    road.put_to_sleep()
    road.origin.bad_bytes = 8 * MIB
    answer = road.stream()
    assert answer.token_ids == expected
    with road.platform.client() as client:
        assert client.requests(1)[0].num_retries == 1


def hot_ids(road: Road) -> list[int]:
    """The ids of the answer, from weights that are all there."""
    road.origin.let()
    road.stream()
    return road.stream().token_ids
