# SPDX-License-Identifier: Apache-2.0
"""Workers that are stopped and stay so are ended; others are left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serverlessllm.agent.stopped_workers import NUM_LOOKS, StoppedWorkers, is_stopped
from support.platform import eventually


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_worker_that_stays_stopped_is_ended(worker: subprocess.Popen[bytes]) -> None:
    watch = StoppedWorkers(lambda: [worker.pid], 1.0)
    worker.send_signal(signal.SIGSTOP)
    eventually(lambda: is_stopped(worker.pid))
    for _ in range(NUM_LOOKS):
        assert worker.poll() is None
        watch.look()
    assert worker.wait(60) == -signal.SIGKILL


def test_worker_that_goes_on_in_time_is_left_alone(worker: subprocess.Popen[bytes]) -> None:
    watch = StoppedWorkers(lambda: [worker.pid], 1.0)
    for _ in range(2):
        worker.send_signal(signal.SIGSTOP)
        eventually(lambda: is_stopped(worker.pid))
        for _ in range(NUM_LOOKS - 1):
            watch.look()
        worker.send_signal(signal.SIGCONT)
        eventually(lambda: not is_stopped(worker.pid))
        watch.look()
    assert worker.poll() is None


def test_process_that_is_gone_is_not_stopped() -> None:
    assert not is_stopped(2**22 + 1)
