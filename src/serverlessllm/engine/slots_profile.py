# SPDX-License-Identifier: Apache-2.0
"""What this machine was measured to compute fastest, remembered over restarts in one small JSON file.

Knows no processes: the pool measures, this remembers. An unreadable file counts as empty, since measuring again
costs a second and refusing to start costs everything.
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.engine.registry import ENGINES
from serverlessllm.types import EngineKind

PROFILE_NAME: Final = "profile.json"


class Profile(msgspec.Struct):
    """The file's content. `dtypes` maps a machine key to a dtype."""

    dtypes: dict[str, str] = {}


class DtypeProfile:
    """The remembered answers of `dtype: auto`, one per engine version, CPU model and number of threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PROFILE_NAME

    def get(self, key: str) -> str | None:
        """The dtype measured for `key`, or None."""
        return self._read().dtypes.get(key)

    def put(self, key: str, dtype: str) -> None:
        """Remember `dtype` for `key`; the file is replaced as a whole. Raises OSError."""
        profile = self._read()
        profile.dtypes[key] = dtype
        aside = self._path.with_suffix(".tmp")
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2))
        aside.replace(self._path)

    def _read(self) -> Profile:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Profile)
        except (OSError, msgspec.MsgspecError):
            return Profile()


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
