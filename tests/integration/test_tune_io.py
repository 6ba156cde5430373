# SPDX-License-Identifier: Apache-2.0
"""`sllm tune io` on a real disk: measured, remembered, taken up by loads, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serverlessllm.arena import libc
from serverlessllm.arena.arena import Arena
from serverlessllm.cli import exit_codes
from serverlessllm.cli.main import run
from serverlessllm.clock import SystemClock
from serverlessllm.config import MIB, ArenaConfig, LoaderConfig
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader
from serverlessllm.node_profile import IoProfile, NodeProfile
from serverlessllm.sources.file import FileSource
from support.ranged_server import RangedServer
from support.stand_in_artifact import StandInArtifact

QUICK = ["--seconds", "1", "--size", "32MiB"]
A = "a" * 32


def test_best_way_is_printed_and_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "io", "--data-dir", str(tmp_path), *QUICK, "--json"]) == exit_codes.OK
    told = json.loads(capsys.readouterr().out)
    kept = NodeProfile(tmp_path).read().io
    assert kept is not None
    assert (kept.num_threads, kept.read_bytes) == (
        told["disk"]["best"]["trial"]["num_threads"],
        told["disk"]["best"]["trial"]["read_bytes"],
    )
    rates = [row["bytes_per_s"] for row in told["disk"]["results"] if row["trial"]["method"] != "populate"]
    assert kept.bytes_per_s == told["disk"]["possible_bytes_per_s"] == max(rates)
    assert {row["trial"]["method"] for row in told["disk"]["results"]} >= {"buffered", "populate"}
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_table_marks_what_loads_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "io", "--data-dir", str(tmp_path), *QUICK]) == exit_codes.OK
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["DISK", "PAGES", "THREADS", "READ", "SPEED", "CPU-S/GB"]
    assert out.count("← loads") == 1
    assert "possible" in err and "profile.json" in err


def test_origin_is_measured_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RangedServer({"/model.bin": os.urandom(4 * MIB)}) as server:
        url = server.url("/model.bin")
        assert run(["tune", "io", "--data-dir", str(tmp_path), *QUICK, "--url", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kept = NodeProfile(tmp_path).read().io
    assert kept is not None and kept.num_connections in {row["num_connections"] for row in told["ranges"]}
    assert all(row["nbytes"] > 0 for row in told["ranges"])


def test_missing_object_of_an_origin_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RangedServer({}) as server:
        status = run(["tune", "io", "--data-dir", str(tmp_path), *QUICK, "--url", server.url("/none.bin")])
    assert status == exit_codes.FAILED
    assert "none.bin" in capsys.readouterr().err
    assert NodeProfile(tmp_path).read().io is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    libc.mount_tmpfs("tune", str(tmp_path), "size=64m")
    try:
        assert run(["tune", "io", "--data-dir", str(tmp_path), *QUICK]) == exit_codes.FAILED
        assert "too full" in capsys.readouterr().err
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == 0
    finally:
        libc.umount(str(tmp_path))


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_interrupted_measurement_leaves_no_file_and_no_profile(
    tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-m", "serverlessllm.cli.main", "tune", "io", "--data-dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--seconds", "60", "--size", "32MiB"], stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and not _is_measuring(process.pid, tmp_path):
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.wait(60) == status
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def _is_measuring(pid: int, data_dir: Path) -> bool:
    """Whether the process has a file open there that has no name."""
    try:
        links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith(str(data_dir)) and link.endswith("(deleted)") for link in links)


async def test_load_reads_as_the_profile_says(tmp_path: Path) -> None:
    seen: set[tuple[int, str]] = set()

    class SeenSource(FileSource):
        def read_into(self, offset: int, view: memoryview) -> int:
            seen.add((len(view), threading.current_thread().name))
            return super().read_into(offset, view)

    profile = IoProfile(
        num_threads=2, read_bytes=256 << 10, is_direct=True, bytes_per_s=1e12, measured_at_s=1
    )
    NodeProfile(tmp_path).put_io(profile)
    artifact = StandInArtifact.write(tmp_path, A, [6 * MIB], [10 * MIB])
    arena = Arena.open(tmp_path / "arena", ArenaConfig(budget_bytes=32 * MIB, huge_pages="never"))
    clock = SystemClock()
    loader = Loader(
        arena,
        NvmeTier(tmp_path, 0, clock),
        LoaderConfig(),
        clock,
        io_profile=NodeProfile(tmp_path).read().io,
        open_source=SeenSource,
    )
    try:
        report = await loader.load(A, artifact)
    finally:
        await loader.close()
        arena.close(keep=False)
    assert {size for size, _ in seen} == {256 << 10}
    assert {name for _, name in seen} <= {"read-0", "read-1"}
    assert report.possible_gbps == 1000.0
    assert report.gbps < report.possible_gbps
