# SPDX-License-Identifier: Apache-2.0
"""What the answer of `dtype: auto` depends on, as a key of the node's profile. Knows no file and no process."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from serverlessllm.engine.registry import ENGINES
from serverlessllm.types import EngineKind


def machine_key(kind: EngineKind, num_threads: int) -> str:
    """All that the answer depends on: `torch 2.13.0 · AMD EPYC … · 2 threads`."""
    try:
        version = importlib.metadata.version(ENGINES[kind].distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return f"{kind} {version} · {_cpu_model()} · {num_threads} threads"


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
