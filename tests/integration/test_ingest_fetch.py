# SPDX-License-Identifier: Apache-2.0
"""Sources elsewhere become artifacts: hub, web directory, archive; what arrived is kept; what lies is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.ingest.convert import convert
from support.front import eventually
from support.hub_objects import COMMIT, directory_files, hub_objects
from support.ingest_server import IngestServer, ingest_server
from support.ranged_server import RangedServer
from support.tiny_checkpoints import tiny_tensors, write_hf_directory, write_tiny_gguf

MIB = 1 << 20
REPOSITORY = "org/tiny"


@pytest.fixture
def web() -> Iterator[RangedServer]:
    with RangedServer({}) as server:
        yield server


@pytest.fixture
async def ingest(
    tmp_path: Path, web: RangedServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[IngestServer]:
    monkeypatch.setenv("HF_ENDPOINT", web.url(""))
    async with ingest_server(tmp_path / "data") as server:
        yield server


def put_repository(web: RangedServer, directory: Path) -> None:
    web.objects.update(hub_objects(REPOSITORY, directory_files(directory)))


def big_source(directory: Path, *, nbytes: int = 48 * MIB) -> Path:
    """A checkpoint of several pieces, no two alike."""
    words = np.arange(nbytes // 8, dtype=np.int64).reshape(-1, 1024)
    return write_hf_directory(directory, {"model.layers.0.w.weight": words})


async def test_hub_repository_becomes_the_artifact_of_its_files(
    ingest: IngestServer, web: RangedServer, tmp_path: Path
) -> None:
    source = write_hf_directory(tmp_path / "hf")
    put_repository(web, source)
    job = await ingest.run(f"hf://{REPOSITORY}")
    assert job.state == "done", job.error
    assert job.resolved == f"hf://{REPOSITORY}@{COMMIT}"
    artifact = Artifact.open(ingest.artifacts / (job.revision or ""))
    verify(artifact)
    assert {name: bytes(artifact.tensor(name)) for name in tiny_tensors()} == {
        name: array.tobytes() for name, array in tiny_tensors().items()
    }
    assert job.revision == convert(source, tmp_path / "here").revision
    await eventually(lambda: not list(ingest.fetches.iterdir()))


async def test_web_directory_and_archive_become_the_same_artifact(
    ingest: IngestServer, web: RangedServer, tmp_path: Path
) -> None:
    source = write_hf_directory(tmp_path / "hf")
    files = directory_files(source)
    links = "".join(f'<a href="{name}">{name}</a>' for name in files)
    web.objects.update({f"/m/{name}": data for name, data in files.items()})
    web.objects["/m/"] = links.encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(source, arcname="model")
    web.objects["/m.tar.gz"] = packed.getvalue()
    jobs = [await ingest.run(web.url(path)) for path in ("/m/", "/m.tar.gz")]
    assert [job.state for job in jobs] == ["done", "done"], [job.error for job in jobs]
    assert jobs[0].revision == jobs[1].revision == convert(source, tmp_path / "here").revision


async def test_single_file_and_artifact_elsewhere_are_taken(
    ingest: IngestServer, web: RangedServer, tmp_path: Path
) -> None:
    gguf = write_tiny_gguf(tmp_path / "m.gguf")
    artifact = Artifact.open(Path(convert(gguf, tmp_path / "artifacts", dtype="float16").directory))
    web.objects["/m.gguf"] = gguf.read_bytes()
    web.objects.update({f"/a/{name}": data for name, data in directory_files(artifact.directory).items()})
    first, second = await ingest.run(web.url("/m.gguf")), await ingest.run(web.url("/a"))
    assert (first.state, first.revision) == ("done", convert(gguf, tmp_path / "here").revision), first.error
    assert (second.state, second.revision) == ("done", artifact.revision), second.error


async def test_cancelled_fetch_is_gone_on_with(
    ingest: IngestServer, web: RangedServer, tmp_path: Path
) -> None:
    put_repository(web, big_source(tmp_path / "hf"))
    web.bytes_per_s = 48 * MIB
    job = await ingest.start(f"hf://{REPOSITORY}")
    await ingest.until(job, "fetch", 16 * MIB)
    assert (await ingest.client.cancel(job.id)).state == "cancelled"
    web.bytes_per_s = None
    again = await ingest.run(f"hf://{REPOSITORY}")
    assert again.state == "done", again.error
    assert 0 < again.fetched_bytes <= 33 * MIB


async def test_stopped_service_goes_on_with_what_arrived(
    web: RangedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url(""))
    put_repository(web, big_source(tmp_path / "hf"))
    web.bytes_per_s = 48 * MIB
    async with ingest_server(tmp_path / "data") as server:
        job = await server.start(f"hf://{REPOSITORY}")
        await server.until(job, "fetch", 16 * MIB)
    web.bytes_per_s = None
    async with ingest_server(tmp_path / "data") as server:
        again = await server.end_of(job)
    assert again.state == "done", again.error
    assert 0 < again.fetched_bytes <= 33 * MIB


async def test_file_that_differs_from_its_promise_is_refused(
    ingest: IngestServer, web: RangedServer, tmp_path: Path
) -> None:
    put_repository(web, write_hf_directory(tmp_path / "hf"))
    path = f"/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    web.objects[path] = web.objects[path][:-1] + b"\xff"
    job = await ingest.run(f"hf://{REPOSITORY}")
    assert job.state == "failed" and job.error is not None
    assert job.error["code"] == "corrupt_checkpoint" and "SHA-256" in str(job.error["message"])
    assert list(ingest.artifacts.iterdir()) == []


async def test_source_that_is_no_checkpoint_is_named_as_people_know_it(
    ingest: IngestServer, web: RangedServer
) -> None:
    web.objects.update({"/d/": b'<a href="notes.txt">notes</a>', "/d/notes.txt": b"hello"})
    job = await ingest.run(web.url("/d/"))
    assert job.state == "failed" and job.error is not None
    assert web.url("/d/") in str(job.error["message"])
    assert str(ingest.data_path) not in str(job.error["message"])


async def test_private_address_is_refused_unless_allowed(web: RangedServer, tmp_path: Path) -> None:
    async with ingest_server(tmp_path / "data", allow_private_urls=False) as server:
        job = await server.run(web.url("/m/"))
    assert job.state == "failed" and job.error is not None
    assert job.error["code"] == "permission_denied"
    assert web.served.gets == [] and web.served.requests == []


async def test_absent_repository_says_so(ingest: IngestServer) -> None:
    job = await ingest.run("hf://org/absent")
    assert job.state == "failed" and job.error is not None
    assert "org/absent" in str(job.error["message"])
