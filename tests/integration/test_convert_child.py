# SPDX-License-Identifier: Apache-2.0
"""`python -m serverlessllm.ingest.convert`: its lines, its exit codes, and that an interrupted one leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.staging import PREFIX
from serverlessllm.ingest.convert import convert
from serverlessllm.wire.ingest import ConvertReport, Failure, Progress, decode_child_line
from support.tiny_checkpoints import write_hf_directory, write_slow_hf_directory


def _start(source: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serverlessllm.ingest.convert", str(source), str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for_progress(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    assert isinstance(decode_child_line(child.stdout.readline()), Progress)


def test_lines_end_with_the_published_revision(tmp_path: Path) -> None:
    with _start(write_hf_directory(tmp_path / "hf"), tmp_path / "out", "--dtype", "bfloat16") as child:
        lines, _ = child.communicate(timeout=60)
    *progress, last = [decode_child_line(line) for line in lines.splitlines()]
    assert progress and all(isinstance(line, Progress) for line in progress)
    assert isinstance(last, ConvertReport)
    assert child.returncode == 0
    assert Artifact.open(Path(last.directory)).revision == last.revision


def test_failure_is_one_error_line_and_exit_1(tmp_path: Path) -> None:
    with _start(tmp_path / "absent", tmp_path / "out") as child:
        lines, errors = child.communicate(timeout=60)
    (last,) = [decode_child_line(line) for line in lines.splitlines()]
    assert isinstance(last, Failure)
    assert (child.returncode, last.error["code"], last.error["param"]) == (1, "not_found", "source")
    assert errors == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_conversion_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    source = write_slow_hf_directory(tmp_path / "hf")
    with _start(source, tmp_path / "out") as child:
        _wait_for_progress(child)
        child.send_signal(number)
        child.communicate(timeout=60)
    assert child.returncode == code
    assert list((tmp_path / "out").iterdir()) == []


def test_child_ends_when_nobody_reads_its_lines(tmp_path: Path) -> None:
    source = write_slow_hf_directory(tmp_path / "hf")
    with _start(source, tmp_path / "out") as child:
        _wait_for_progress(child)
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(timeout=60) == 141
    assert list((tmp_path / "out").iterdir()) == []


def test_killed_conversion_is_swept_and_can_be_repeated(tmp_path: Path) -> None:
    slow = write_slow_hf_directory(tmp_path / "slow")
    with _start(slow, tmp_path / "out") as child:
        _wait_for_progress(child)
        child.kill()
        child.communicate(timeout=60)
    assert [entry.name.startswith(PREFIX) for entry in (tmp_path / "out").iterdir()] == [True]
    report = convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [report.revision]
