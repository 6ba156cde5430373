# SPDX-License-Identifier: Apache-2.0
"""The checks of `sllm doctor`: what they find, and that each finding comes with what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from serverlessllm.cli import checks, disk_speed
from serverlessllm.cli.main import run
from serverlessllm.cli.session import Session
from serverlessllm.config import ArenaConfig, Config, EngineConfig, OrchestratorConfig

NOBODY = Session(url="http://127.0.0.1:1", api_key=None, as_json=False)


def test_doctor_reports_five_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--data-dir", str(tmp_path), "--url", NOBODY.url, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in document["checks"]] == [
        "engine",
        "huge pages",
        "disk",
        "memory",
        "server",
    ]
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
