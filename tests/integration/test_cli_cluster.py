# SPDX-License-Identifier: Apache-2.0
"""`sllm doctor` and `sllm top` against a running cluster with a real store and a real S3."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from benchmarks._harness.seaweed import BUCKET, Seaweed

from serverlessllm.cli.exit_codes import FAILED, OK, UNREACHABLE
from serverlessllm.cli.main import run
from serverlessllm.sdk.local_server import LocalServer
from support.cluster import Cluster, add_model, chat, until_alive
from support.metadata_servers import RedisProcess
from support.model_dirs import write_simulated
from support.platform import eventually

Capture = pytest.CaptureFixture[str]


@dataclass
class World:
    """What runs, and the environment in which an operator would stand."""

    front: LocalServer
    agents: list[LocalServer]
    env: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        redis = RedisProcess(home / "redis")
        stack.callback(redis.kill)
        redis.start()
        s3 = stack.enter_context(Seaweed(tmp_path_factory.mktemp("s3")))
        url = f"redis://127.0.0.1:{redis.port}"
        cluster = stack.enter_context(Cluster(home, url))
        front, agents = cluster.orchestrator(), [cluster.agent(), cluster.agent()]
        until_alive(front, 2)
        add_model(front, "m", write_simulated(home / "m"), token_s=0.05)
        add_model(front, "slow", write_simulated(home / "slow", variant=1), load_s=3.0)
        env = {
            **s3.environment,
            "SLLM_METADATA_URL": url,
            "SLLM_URL": front.url,
            "SLLM_INGEST_PUBLISH": f"s3://{BUCKET}/artifacts",
            "SLLM_DATA_DIR": str(home / "doctor"),
        }
        yield World(front, agents, env)


@pytest.fixture(autouse=True)
def operator(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)


def _checks(capsys: Capture, *, status: int = OK) -> dict[str, dict[str, str]]:
    assert run(["doctor", "--json"]) == status
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_doctor_finds_store_s3_nodes_versions_and_clocks(capsys: Capture) -> None:
    found = _checks(capsys)
    assert "2 agents joined" in found["store"]["finding"]
    assert found["S3"]["status"] == "ok" and BUCKET in found["S3"]["finding"]
    assert found["agents"]["finding"] == "2 of 2 nodes alive"
    assert (found["versions"]["status"], found["clocks"]["status"]) == ("ok", "ok")


def test_doctor_says_what_to_do_about_credentials_that_are_refused(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = _checks(capsys, status=FAILED)
    assert found["S3"]["status"] == "fail" and "AWS_SECRET_ACCESS_KEY" in found["S3"]["advice"]


def test_doctor_names_a_node_that_was_drained_and_how_to_take_it_back(capsys: Capture) -> None:
    assert run(["node", "list", "--json"]) == OK
    node = json.loads(capsys.readouterr().out)["agents"][0]["status"]["agent_id"]
    run(["node", "drain", node])
    eventually(lambda: node in _checks(capsys)["agents"]["finding"])
    run(["node", "undrain", node])


def _top(capsys: Capture) -> dict[str, Any]:
    assert run(["top", "--json"]) == OK
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_top_counts_held_and_running_requests_by_model_and_node(world: World, capsys: Capture) -> None:
    calls = [
        threading.Thread(target=chat, args=(world.front, model), kwargs={"max_tokens": 100})
        for model in ("m", "m", "slow")
    ]
    for call in calls:
        call.start()
    look = eventually(
        lambda: (found := _top(capsys)) and found["num_running"] == 2 and found["num_held"] == 1 and found
    )
    for call in calls:
        call.join()
    by_name = {model["name"]: model for model in look["models"]}
    assert by_name["m"]["num_running"] == 2 and by_name["slow"]["num_held"] == 1
    assert by_name["slow"]["state"] in ("loading", "binding")
    assert {request["state"] for request in look["requests"]} == {"held", "running"}
    assert sum(node["num_running"] for node in look["nodes"]) == 2
    assert all(node["state"] == "alive" for node in look["nodes"])


def test_top_into_a_pipe_is_plain_tables_once(capsys: Capture) -> None:
    assert run(["top"]) == OK
    out = capsys.readouterr().out
    assert "2 of 2 nodes" in out and "no requests under way" in out and "\x1b" not in out


def test_top_on_a_terminal_redraws_until_ctrl_c(world: World) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "serverlessllm.cli.main", "top", "--every", "0.1"])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    seen = b""
    while seen.count(b"nodes") < 3:  # it draws itself again and again
        seen += os.read(fd, 65536)
    os.kill(pid, signal.SIGINT)
    while True:  # what it still says has to be read, or it would wait
        try:
            if not os.read(fd, 65536):
                break
        except OSError:
            break
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == OK
    assert b"sllm top" in seen and b"QUEUED" in seen


def test_top_without_a_server_ends_with_its_own_status() -> None:
    command = [sys.executable, "-m", "serverlessllm.cli.main", "top", "--json", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == UNREACHABLE and "error" in json.loads(done.stdout)
