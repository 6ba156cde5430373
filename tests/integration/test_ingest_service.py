# SPDX-License-Identifier: Apache-2.0
"""The ingest service over real HTTP and real child processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.config import Config, replace
from serverlessllm.ingest.gate import Gate
from serverlessllm.ingest.service import create_app
from serverlessllm.ingest.workplace import Workplace
from serverlessllm.wire.ingest import SECRET_HEADER
from support.tiny_checkpoints import write_hf_directory, write_slow_hf_directory

SECRET = "s3cret"
Client = TestClient[Any, Any]


def service(data_path: Path, **settings: Any) -> web.Application:
    ingest = {"allow_private_urls": True, **settings}
    config = replace(Config(), {"data_dir": str(data_path), "ingest": ingest})
    return create_app(Workplace(config), Gate(SECRET))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    app = service(tmp_path)
    async with TestClient(TestServer(app), headers={SECRET_HEADER: SECRET}) as client:
        yield client


def _children() -> set[int]:
    """Pids of this process's children."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for children in lists for pid in children.read_text().split()}


async def _wait_for(client: Client, job_id: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            job: dict[str, Any] = await (await client.get(f"/jobs/{job_id}")).json()
            if job["state"] in states:
                return job
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/ingest", "/convert"])
async def test_job_runs_to_an_artifact(client: Client, tmp_path: Path, path: str) -> None:
    source = write_hf_directory(tmp_path / "hf")
    answer = await client.post(path, json={"source": str(source), "dtype": "bfloat16"})
    assert answer.status == 202
    job = await _wait_for(client, (await answer.json())["id"], "done", "failed")
    assert job["state"] == "done", job
    assert job["done_bytes"] == job["total_bytes"] > 0
    Artifact.open(tmp_path / "artifacts" / job["revision"], expect_revision=job["revision"])


async def test_failed_job_carries_the_error_of_the_conversion(client: Client, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    answer = await client.post("/ingest", json={"source": str(tmp_path / "notes")})
    job = await _wait_for(client, (await answer.json())["id"], "done", "failed")
    assert job["state"] == "failed"
    assert job["error"]["code"] == "unsupported_checkpoint"
    assert "Accepted:" in job["error"]["message"]


async def test_equal_unfinished_requests_share_a_job_and_others_queue(client: Client, tmp_path: Path) -> None:
    slow = {"source": str(write_slow_hf_directory(tmp_path / "hf"))}
    jobs = [await (await client.post("/ingest", json=slow)).json() for _ in range(3)]
    other = await (await client.post("/ingest", json={**slow, "dtype": "float16"})).json()
    assert len({job["id"] for job in jobs}) == 1
    assert other["id"] != jobs[0]["id"]
    await _wait_for(client, jobs[0]["id"], "running")
    assert (await (await client.get(f"/jobs/{other['id']}")).json())["state"] == "queued"


async def test_shutdown_ends_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    app = service(tmp_path)
    source = write_slow_hf_directory(tmp_path / "hf")
    async with TestClient(TestServer(app), headers={SECRET_HEADER: SECRET}) as client:
        job = await (await client.post("/ingest", json={"source": str(source)})).json()
        async with asyncio.timeout(60):
            while not job["done_bytes"]:
                job = await (await client.get(f"/jobs/{job['id']}")).json()
                await asyncio.sleep(0.02)
        assert job["state"] == "running"
        children = _children()
    assert children
    assert not _children() & children
    assert list((tmp_path / "artifacts").iterdir()) == []


async def _events(client: Client, job_id: str) -> list[dict[str, Any]]:
    """Every event of the job's stream, which must end with `[DONE]`."""
    answer = await client.get(f"/jobs/{job_id}/events")
    assert answer.headers["content-type"] == "text/event-stream"
    lines = (await answer.text()).split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(item) for item in data]


async def test_events_tell_progress_until_the_job_is_done(client: Client, tmp_path: Path) -> None:
    source = write_slow_hf_directory(tmp_path / "hf", num_tensors=16)
    job = await (await client.post("/ingest", json={"source": str(source)})).json()
    events = await _events(client, job["id"])
    done = [event["done_bytes"] for event in events]
    assert done == sorted(done) and len(set(done)) > 2
    assert {"convert"} == {event["phase"] for event in events[:-1] if event["bytes_per_s"]}
    assert events[-1]["state"] == "done" and events[-1]["nbytes"] >= events[-1]["total_bytes"]
    assert len(await _events(client, job["id"])) == 1  # of a finished job


async def test_cancelled_job_ends_its_child_and_may_be_asked_for_again(
    client: Client, tmp_path: Path
) -> None:
    source = {"source": str(write_slow_hf_directory(tmp_path / "hf"))}
    job = await (await client.post("/ingest", json=source)).json()
    await _wait_for(client, job["id"], "running")
    stream = asyncio.create_task(_events(client, job["id"]))
    cancelled = await (await client.delete(f"/jobs/{job['id']}")).json()
    assert cancelled["state"] == "cancelled" == (await stream)[-1]["state"]
    assert not _children()
    assert list((tmp_path / "artifacts").iterdir()) == []
    again = await (await client.post("/ingest", json=source)).json()
    assert again["id"] != job["id"]
    await client.delete(f"/jobs/{again['id']}")


async def test_finished_job_is_not_cancelled(client: Client, tmp_path: Path) -> None:
    source = write_hf_directory(tmp_path / "hf")
    job = await (await client.post("/convert", json={"source": str(source)})).json()
    await _wait_for(client, job["id"], "done")
    assert (await (await client.delete(f"/jobs/{job['id']}")).json())["state"] == "done"


async def test_stopped_service_takes_its_jobs_up_again(tmp_path: Path) -> None:
    source = {"source": str(write_slow_hf_directory(tmp_path / "hf", num_tensors=24))}
    async with TestClient(TestServer(service(tmp_path)), headers={SECRET_HEADER: SECRET}) as client:
        running = await (await client.post("/ingest", json=source)).json()
        waiting = await (await client.post("/ingest", json={**source, "dtype": "float16"})).json()
        await _wait_for(client, running["id"], "running")
    async with TestClient(TestServer(service(tmp_path)), headers={SECRET_HEADER: SECRET}) as client:
        for job in (running, waiting):
            assert (await _wait_for(client, job["id"], "done", "failed"))["state"] == "done"
        ended = await (await client.get(f"/jobs/{running['id']}")).json()
    async with TestClient(TestServer(service(tmp_path)), headers={SECRET_HEADER: SECRET}) as client:
        assert await (await client.get(f"/jobs/{running['id']}")).json() == ended


async def test_convert_takes_local_paths_alone(client: Client) -> None:
    answer = await client.post("/convert", json={"source": "hf://org/name"})
    assert answer.status == 400
    assert (await answer.json())["error"]["param"] == "source"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"source": "./relative/path"}, "source"),
        ({"source": "ftp://host/a"}, "source"),
        ({"source": "hf://one-part"}, "source"),
        ({"source": "s3://NoBucket/a"}, "source"),
        ({"source": "https://user:password@host/a"}, "source"),
        ({"source": "/a", "publish": "/b"}, "publish"),
        ({"source": "/a\0b"}, "source"),
        ({"source": "/" + "a" * 5000}, "source"),
        ({"source": 3}, None),
        ({"source": "/a", "dtype": "int4"}, None),
        ({"source": "/a", "out": "/etc"}, None),
        ({}, None),
        ([], None),
    ],
)
async def test_malformed_bodies_are_400(client: Client, body: object, param: str | None) -> None:
    answer = await client.post("/ingest", json=body)
    assert answer.status == 400
    error = (await answer.json())["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_wrong_secret_type_size_path_and_method_have_their_status(client: Client) -> None:
    json_type = {"Content-Type": "application/json"}
    answers = [
        await client.post("/ingest", json={"source": "/a"}, headers={SECRET_HEADER: "wrong"}),
        await client.get("/jobs/x", headers={SECRET_HEADER: ""}),
        await client.post("/ingest", data=b"{}", headers={"Content-Type": "text/plain"}),
        await client.post("/ingest", data=b" " * (65 << 10), headers=json_type),
        await client.get("/jobs/unknown"),
        await client.get("/nowhere"),
        await client.delete("/ingest"),
    ]
    assert [answer.status for answer in answers] == [401, 401, 415, 413, 404, 404, 405]
    for answer in answers:
        assert (await answer.json())["error"]["message"]


async def test_health_needs_no_secret(client: Client) -> None:
    assert (await client.get("/healthz", headers={SECRET_HEADER: ""})).status == 200


async def test_signature_of_a_link_stays_out_of_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.post("/ingest", json={"source": "http://127.0.0.1:9/m.tar?X-Amz-Signature=5e7"})
    job = await _wait_for(client, (await answer.json())["id"], "failed")
    assert "http://127.0.0.1:9/m.tar" in caplog.text
    assert "5e7" not in caplog.text + job["error"]["message"]
