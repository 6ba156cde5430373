# SPDX-License-Identifier: Apache-2.0
"""A helper process that does one measured thing per line it is sent and answers one JSON line.

All measured processes, ours and the peers', run with `QUIET_ENV`, the setting of our workers: on two shared cores,
OpenMP threads that spin for long while they wait slow everybody down, themselves first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from serverlessllm.engine.zygote import SPIN_TURNS

QUIET_ENV = {**os.environ, "GOMP_SPINCOUNT": str(SPIN_TURNS), "KMP_BLOCKTIME": "0"}


class LineProcess:
    """`python script args…`; ready once it has printed its first line."""

    def __init__(self, script: Path, args: Sequence[str]) -> None:
        command = [sys.executable, str(script), *args]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=QUIET_ENV
        )
        self.hello = self._read()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError("the process has no pipes")
        return pipe

    def _read(self) -> dict[str, float]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def ask(self, what: str = "go") -> dict[str, float]:
        """Run the measurement once; `what` is the line that is sent."""
        stdin = self._pipe(self._process.stdin)
        stdin.write(f"{what}\n")
        stdin.flush()
        return self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait(30)
        self._pipe(self._process.stdout).close()
