# SPDX-License-Identifier: Apache-2.0
"""The checks of `sllm doctor`: what they find, and that each finding comes with what to do."""

from __future__ import annotations

import json
import resource
import socket
import time
from pathlib import Path

import msgspec
import pytest

from serverlessllm.cli import checks, cluster_checks, disk_speed, node_checks
from serverlessllm.cli.main import run
from serverlessllm.cli.session import Session
from serverlessllm.config import (
    AgentConfig,
    ArenaConfig,
    Config,
    EngineConfig,
    MetadataConfig,
    OrchestratorConfig,
)
from serverlessllm.node_profile import IoProfile, NodeProfile
from serverlessllm.wire import WIRE_VERSION
from serverlessllm.wire.admin import AgentView
from serverlessllm.wire.agent import AgentStatus

NOBODY = Session(url="http://127.0.0.1:1", api_key=None, as_json=False)


def test_doctor_checks_the_node_and_what_it_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["doctor", "--data-dir", str(tmp_path), "--url", NOBODY.url, "--json"])
    document = json.loads(capsys.readouterr().out)
    node = [
        "engine",
        "driver",
        "huge pages",
        "shared memory",
        "disk",
        "memory",
        "limits",
        "privileges",
        "clock",
    ]
    assert [check["name"] for check in document["checks"]] == [*node, "ports", "store", "S3", "server"]
    assert all(check["advice"] for check in document["checks"] if check["status"] != "ok")


def test_disk_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    speed = disk_speed.measure(tmp_path, num_threads=2)
    assert speed.bytes_per_s > 0
    assert list(tmp_path.iterdir()) == []


def test_data_directory_that_does_not_exist_is_checked_where_it_would_be(tmp_path: Path) -> None:
    result = checks.check_disk(Config(data_dir=str(tmp_path / "a" / "b")))
    assert result.status != "fail" and str(tmp_path / "a" / "b") in result.finding
    assert not (tmp_path / "a").exists()


def test_budget_above_the_memory_fails() -> None:
    result = checks.check_memory(Config(arena=ArenaConfig(budget_bytes=1 << 60)))
    assert result.status == "fail" and "arena.budget_bytes" in result.advice


def test_huge_pages_switched_off_is_a_warning() -> None:
    assert checks.check_huge_pages(Config(arena=ArenaConfig(huge_pages="never"))).status == "warn"


def test_dtype_that_was_set_is_told() -> None:
    result = checks.check_engine(Config(engine=EngineConfig(dtype="float32")))
    assert "computes in float32 (set)" in result.finding


def test_free_port_is_fine_when_no_server_runs() -> None:
    result = checks.check_server(Config(orchestrator=OrchestratorConfig(port=0)), NOBODY)
    assert result.status == "ok" and "sllm serve" in result.finding


def test_port_that_another_program_holds_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        config = Config(orchestrator=OrchestratorConfig(port=holder.getsockname()[1]))
        result = checks.check_server(config, NOBODY)
    assert result.status == "fail" and "--port" in result.advice


def test_disk_far_slower_than_it_was_measured_is_a_warning(tmp_path: Path) -> None:
    fast = IoProfile(num_threads=2, read_bytes=8 << 20, is_direct=True, bytes_per_s=1e15, measured_at_s=0.0)
    NodeProfile(tmp_path).put_io(fast)
    result = checks.check_disk(Config(data_dir=str(tmp_path)))
    assert result.status == "warn" and "sllm tune io" in result.finding + result.advice


def test_graphics_card_that_shall_be_used_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "NVIDIA", Path("/nowhere"))
    result = node_checks.check_driver(Config(engine=EngineConfig(device="cuda")))
    assert result.status == "fail" and "driver" in result.advice
    assert node_checks.check_driver(Config()).status == "ok"


def test_shared_memory_smaller_than_the_weights_budget_is_told() -> None:
    config = Config(arena=ArenaConfig(huge_pages="never", budget_bytes=1 << 20))
    assert node_checks.check_shared_memory(config).status == "ok"


def test_few_open_files_come_with_the_command_to_raise_them() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        result = node_checks.check_limits(Config())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.status == "warn" and "ulimit -n" in result.advice


def test_port_of_an_agent_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = node_checks.check_ports(Config(agent=AgentConfig(port=port)))
    assert result.status == "warn" and f"agent.port {port}" in result.finding


def test_clock_of_another_machine_that_is_apart_is_a_warning() -> None:
    assert node_checks.clock_beside("http://a", time.time()).status == "ok"
    assert "10.0 s apart" in node_checks.clock_beside("http://a", time.time() - 10.0).finding


def test_store_that_does_not_answer_fails_with_its_address() -> None:
    result = cluster_checks.check_store(Config(metadata=MetadataConfig(url="redis://127.0.0.1:1")))
    assert result.status == "fail" and "127.0.0.1:1" in result.finding


def _view(**changes: object) -> AgentView:
    status = AgentStatus("agent-1", "boot", WIRE_VERSION, ["torch"], 1, 0, "shm", [], [], [], [], {})
    view = AgentView(address="http://a", is_alive=True, silent_s=0.0, status=status)
    return msgspec.structs.replace(view, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_alive": False}, "silent: agent-1"),
        ({"is_drained": True}, "drained: agent-1"),
        ({}, "1 of 1 node"),
    ],
)
def test_nodes_that_take_no_work_are_named(changes: dict[str, object], said: str) -> None:
    result = cluster_checks.check_agents([_view(**changes)])
    assert said in result.finding and (result.status == "ok") == (not changes)


def test_node_of_another_wire_version_fails() -> None:
    status = AgentStatus("agent-1", "boot", WIRE_VERSION + 1000, ["torch"], 1, 0, "shm", [], [], [], [], {})
    assert cluster_checks.check_versions([_view(status=status)]).status == "fail"
    assert cluster_checks.check_versions([_view()]).status == "ok"
