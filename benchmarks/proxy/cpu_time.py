# SPDX-License-Identifier: Apache-2.0
"""CPU time of a process with all its threads and children, in nanoseconds (Linux, `/proc/*/schedstat`)."""

from __future__ import annotations

from pathlib import Path


def cpu_ns(pid: int) -> int:
    """What it has used so far; threads and children that have ended are not counted any more."""
    total = 0
    for task in _tasks(pid):
        try:
            total += int((task / "schedstat").read_text().split()[0])
            children = (task / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(cpu_ns(int(child)) for child in children)
    return total


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []
