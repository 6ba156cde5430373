# SPDX-License-Identifier: Apache-2.0
"""One bit flipped on the disk, in S3, on the wire: found before a token is made, and the client gets its answer.

A whole platform with the real engine and a real S3 server behind a wire that can flip bits. What a model answered
before the flip is what it must answer after it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import obstore
import pytest
from benchmarks._harness.seaweed import BUCKET, Seaweed

from support.flipping_proxy import FlippingProxy
from support.hub_objects import directory_files, hub_objects
from support.model_dirs import write_tiny_llama
from support.plain_reader import read_safetensors, read_tensors, tensor_places
from support.platform import PATIENCE_S, Platform, eventually
from support.ranged_server import FaultKind, RangedServer, RangeRequest
from support.seeds import seeds

[SEED] = seeds(1)


@dataclass
class World:
    """The platform, and the three media that may go wrong under it."""

    platform: Platform
    s3: Seaweed
    wire: FlippingProxy
    hub: RangedServer
    flips: random.Random

    def answer(self, model: str) -> list[int]:
        """The ids of a greedy answer."""
        reply = self.platform.chat(model, max_tokens=8, temperature=0)
        assert reply.status_code == 200, reply.text
        ids: list[int] = reply.json()["choices"][0]["token_ids"]
        return ids

    def artifact(self, model: str) -> Path:
        with self.platform.client() as client:
            return self.platform.home / "d" / "artifacts" / str(client.get_model(model).revision)

    def key(self, model: str) -> str:
        return f"here/{self.artifact(model).name}/model.bin"

    def sleep(self, model: str) -> None:
        """No replica, nothing in DRAM."""
        with self.platform.client() as client:
            client.stop_model(model, drop_bytes=True)

    def flip_on_disk(self, model: str) -> None:
        path = self.artifact(model) / "model.bin"
        path.write_bytes(self._flipped(path.read_bytes(), model))

    def flip_in_s3(self, model: str) -> None:
        obstore.put(self.s3.store(), self.key(model), self._flipped(self.in_s3(model), model))

    def in_s3(self, model: str) -> bytes:
        return bytes(obstore.get(self.s3.store(), self.key(model)).bytes())

    def _flipped(self, data: bytes, model: str) -> bytes:
        """`data` with one bit of some tensor changed: padding between shards is neither read nor sent."""
        places = tensor_places(self.artifact(model))
        start, nbytes = self.flips.choice(list(places.values()))
        bit = 8 * start + self.flips.randrange(8 * nbytes)
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def last_tier(self) -> str | None:
        with self.platform.client() as client:
            return client.requests(1)[0].tier


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    print(f"seed {SEED}")  # noqa: T201  # shown when a test fails
    home = tmp_path_factory.mktemp("world")
    source = write_tiny_llama(home / "hub", seed=99)
    with (
        Seaweed(tmp_path_factory.mktemp("s3")) as s3,
        FlippingProxy(int(s3.endpoint.rpartition(":")[2])) as wire,
        RangedServer(hub_objects("org/llama", directory_files(source))) as hub,
    ):
        env = s3.environment | {"AWS_ENDPOINT_URL": wire.url, "HF_ENDPOINT": hub.url("")}
        env["SLLM_INGEST_ALLOW_PRIVATE_URLS"] = "yes"
        with Platform(home, env, ingest_publish=f"s3://{BUCKET}/here") as platform:
            yield World(platform, s3, wire, hub, random.Random(SEED))


@pytest.fixture
def model(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A model of this test alone, asleep, whose source is gone after its conversion."""
    name = f"m{len(request.node.name)}-{world.flips.randrange(1 << 30)}"
    world.platform.add(name, write_tiny_llama(tmp_path / name, seed=len(request.node.name)), engine="torch")
    return name


def test_bit_flipped_on_the_disk_is_mended_from_s3(world: World, model: str, tmp_path: Path) -> None:
    before, tensors = world.answer(model), read_tensors(world.artifact(model))
    shutil.rmtree(tmp_path / model)
    world.sleep(model)
    world.flip_on_disk(model)
    assert read_tensors(world.artifact(model)) != tensors
    assert world.answer(model) == before
    assert world.last_tier() == "remote"
    eventually(lambda: read_tensors(world.artifact(model)) == tensors)
    aside = world.platform.home / "d" / "artifacts" / ".bad"
    assert [path for path in aside.iterdir() if path.name.startswith(world.artifact(model).name)]


def test_bit_flipped_in_s3_is_not_used_and_the_copy_is_written_anew_from_the_source(
    world: World, model: str
) -> None:
    before, published = world.answer(model), world.in_s3(model)
    world.sleep(model)
    world.flip_in_s3(model)
    shutil.rmtree(world.artifact(model))
    assert world.answer(model) == before
    assert world.in_s3(model) == published


def test_bit_flipped_on_the_wire_is_asked_for_again(world: World, model: str, tmp_path: Path) -> None:
    before, tensors = world.answer(model), read_tensors(world.artifact(model))
    world.sleep(model)
    shutil.rmtree(world.artifact(model))
    shutil.rmtree(tmp_path / model)
    world.wire.flips_left = 1
    assert world.answer(model) == before
    assert (world.wire.flips_left, world.last_tier()) == (0, "remote")
    eventually(lambda: world.artifact(model).is_dir())
    assert read_tensors(world.artifact(model)) == tensors


def test_bit_flipped_on_the_way_from_the_hub_is_asked_for_again(world: World) -> None:
    flipped: list[RangeRequest] = []

    def flip_once(request: RangeRequest) -> FaultKind | None:
        if flipped or not request.path.endswith(".safetensors"):
            return None
        flipped.append(request)
        return "corrupt"

    world.hub.fault = flip_once
    with world.platform.client() as client:
        client.add_model("hub", "hf://org/llama", engine="torch")
    assert len(world.answer("hub")) == 8
    assert len(flipped) == 1
    source = read_safetensors(world.hub.objects[flipped[0].path])
    found = read_tensors(world.artifact("hub"))
    assert {name: found[name] for name in source} == source


def test_no_right_copy_anywhere_is_a_clear_error_without_a_token_until_one_is_back(
    world: World, model: str, tmp_path: Path
) -> None:
    before = world.answer(model)
    (tmp_path / model).rename(tmp_path / "away")
    world.sleep(model)
    world.flip_on_disk(model)
    # The same bit: what is wrong in one place only is mended from the other.
    obstore.put(world.s3.store(), world.key(model), (world.artifact(model) / "model.bin").read_bytes())
    reply = world.platform.chat(model, max_tokens=8, temperature=0)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "model_load_failed")
    assert str(tmp_path / model) in reply.json()["error"]["message"]
    streamed = stream(world.platform, model)
    assert b'"error"' in streamed and b"token_ids" not in streamed
    (tmp_path / "away").rename(tmp_path / model)
    assert world.answer(model) == before


def stream(platform: Platform, model: str) -> bytes:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    return httpx.post(f"{platform.url}/v1/chat/completions", json=body, timeout=PATIENCE_S).content
