# SPDX-License-Identifier: Apache-2.0
"""What processor time a tree of processes has used: whether a run had the machine that it needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(root: int) -> float:
    """User and system time of a process, its living descendants, and those that it waited for."""
    children: dict[int, list[int]] = {}
    used_s: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended while we looked
        pid = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        used_s[pid] = sum(map(int, fields[11:15])) / TICKS_PER_S
    total_s, left = 0.0, [root]
    while left:
        pid = left.pop()
        total_s += used_s.get(pid, 0.0)
        left += children.get(pid, [])
    return total_s
