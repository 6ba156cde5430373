# SPDX-License-Identifier: Apache-2.0
"""`sllm disk` on a running platform and on the directory that it left, as a user types it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.cli.exit_codes import FAILED, INTERRUPTED, OK, UNREACHABLE, USAGE
from serverlessllm.cli.main import run
from support.model_dirs import write_simulated
from support.platform import Platform, eventually
from support.ranged_server import RangedServer
from support.simulated_artifact import write_simulated_artifact

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.delenv("SLLM_API_KEY", raising=False)
    monkeypatch.setenv("SLLM_INGEST_ALLOW_PRIVATE_URLS", "true")
    with Platform(tmp_path, engine_slots="1") as running:
        running.add("org/sim", write_simulated(tmp_path / "sim"))
        monkeypatch.setenv("SLLM_URL", running.url)
        yield running


def artifacts(platform: Platform) -> Path:
    return platform.home / "d" / "artifacts"


def litter(platform: Platform) -> str:
    """Leave an artifact that no model has, a quarantined file and a dead writer's directory; the revision."""
    orphan = write_simulated_artifact(artifacts(platform), "orphan")
    (artifacts(platform) / ".bad").mkdir()
    (artifacts(platform) / ".bad" / f"{'ab' * 16}-model.bin.0").write_bytes(os.urandom(5000))
    (artifacts(platform) / ".tmp-0123456789abcdef").mkdir()
    return orphan.revision


def document(capsys: Capture, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_disk_names_models_and_shows_what_could_go(platform: Platform, capsys: Capture) -> None:
    litter(platform)
    platform.chat("org/sim")
    capsys.readouterr()
    assert run(["disk"]) == OK
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    [used] = [row for row in rows if "org/sim" in row]
    assert used[0] == "artifact" and "in use" in used[-1] and "yes" in used
    assert {"quarantined", "left over"} <= {row[0] for row in rows}
    assert len([row for row in rows if row[0] == "artifact" and "none" in row]) == 1


def test_clean_removes_what_nobody_needs_and_the_model_still_answers(
    platform: Platform, capsys: Capture
) -> None:
    orphan = litter(platform)
    platform.chat("org/sim")
    plan = document(capsys, "disk", "clean", "--artifacts", "--to", "0", "--dry-run")
    assert len(plan["nodes"][0]["removed"]) == 3 and (artifacts(platform) / orphan).is_dir()
    done = document(capsys, "disk", "clean", "--artifacts", "--to", "0", "--yes")["nodes"][0]
    assert {one["kind"] for one in done["removed"]} == {"artifact", "quarantined", "leftover"}
    assert done["is_reached"] is False and [one["models"] for one in done["disk"]["copies"]] == [["org/sim"]]
    assert not (artifacts(platform) / orphan).exists()
    run(["stop", "org/sim", "--drop-bytes"])
    assert platform.chat("org/sim").status_code == 200


def test_clean_asks_first_and_keeps_artifacts_unless_told(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    orphan = litter(platform)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(["disk", "clean"]) == INTERRUPTED
    assert len(list((artifacts(platform) / ".bad").iterdir())) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["disk", "clean"]) == OK
    assert "freed" in capsys.readouterr().err
    assert not list((artifacts(platform) / ".bad").iterdir()) and (artifacts(platform) / orphan).is_dir()
    assert run(["disk", "clean"]) == OK
    assert "nothing to remove" in capsys.readouterr().err


def test_directory_of_a_running_server_is_asked_about_not_looked_into(
    platform: Platform, capsys: Capture
) -> None:
    assert run(["disk", "clean", "--yes", "--data-dir", str(platform.home / "d")]) == FAILED
    assert f"in use by process {platform.server.pid}" in capsys.readouterr().err


def test_directory_without_a_server_is_cleaned_by_its_own_records(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    orphan = litter(platform)
    platform.server.stop()
    where = ["--data-dir", str(platform.home / "d")]
    shown = document(capsys, "disk", *where)["nodes"][0]["copies"]
    assert {tuple(one["models"]) for one in shown if one["kind"] == "artifact"} == {("org/sim",), ()}
    done = document(capsys, "disk", "clean", "--artifacts", "--yes", *where)["nodes"][0]
    assert orphan in {one["revision"] for one in done["removed"]}
    assert [one["models"] for one in done["disk"]["copies"]] == [["org/sim"]]


def test_artifacts_stay_where_the_metadata_lie_elsewhere(tmp_path: Path, capsys: Capture) -> None:
    write_simulated_artifact(tmp_path / "artifacts")
    assert run(["disk", "clean", "--artifacts", "--yes", "--data-dir", str(tmp_path)]) == FAILED
    assert "holds no metadata" in capsys.readouterr().err
    assert run(["disk", "clean", "--yes", "--data-dir", str(tmp_path)]) == OK


def test_what_is_no_data_directory_or_no_server_says_so(tmp_path: Path, capsys: Capture) -> None:
    assert run(["disk", "--data-dir", str(tmp_path)]) == USAGE
    assert "no data directory" in capsys.readouterr().err
    assert run(["disk", "--url", "http://127.0.0.1:9"]) == UNREACHABLE
    assert run(["disk", "clean", "--to", "much"]) == USAGE


def test_what_is_being_fetched_stays_and_so_do_artifacts_meanwhile(
    platform: Platform, capsys: Capture
) -> None:
    with RangedServer({"/m.gguf": os.urandom(4 << 20)}, bytes_per_s=200_000) as server:
        with platform.client() as client:
            client.add_model("slow", server.url("/m.gguf"), lazy=False)
        eventually(lambda: server.served.requests)
        sources = document(capsys, "disk", "clean", "--fetched", "--yes")["nodes"][0]["disk"]["copies"]
        assert [one["is_in_use"] for one in sources if one["kind"] == "source"] == [True]
        assert run(["disk", "clean", "--artifacts", "--yes"]) == FAILED
        assert "is being fetched or converted" in capsys.readouterr().err
        assert run(["model", "rm", "slow", "--yes"]) == OK
    left = eventually(lambda: idle_sources(capsys))
    done = document(capsys, "disk", "clean", "--fetched", "--yes")["nodes"][0]
    assert [one["path"] for one in done["removed"]] == left


def idle_sources(capsys: Capture) -> list[str]:
    """Fetched sources that nobody works on."""
    copies = document(capsys, "disk")["nodes"][0]["copies"]
    return [one["path"] for one in copies if one["kind"] == "source" and not one["is_in_use"]]
