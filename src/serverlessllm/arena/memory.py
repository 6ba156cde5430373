# SPDX-License-Identifier: Apache-2.0
"""How much memory this machine, or this container, has, and what share of it the arena takes.

Knows no arena; reads /proc and the cgroup of this process only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serverlessllm.errors import ConfigError

DEFAULT_SHARE: Final = 0.4
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_memory_bytes() -> int:
    """MemTotal, or the container's limit where that is less."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total_bytes = int(fields["MemTotal"].split()[0]) * 1024
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.exists()]
    return min([total_bytes, *(int(limit) for limit in limits if limit.isdigit())])


def available_memory_bytes() -> int:
    """MemAvailable: what programs can still get without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return machine_memory_bytes()


def choose_budget_bytes(wanted_bytes: int, *, memory_bytes: int, room_bytes: int, where: str) -> int:
    """The arena's budget: `wanted_bytes`, or for 0 40 % of memory as far as `room_bytes` allow. Pure.

    Raises: ConfigError when more is wanted than memory or `where` can hold.
    """
    if wanted_bytes == 0:
        return min(int(memory_bytes * DEFAULT_SHARE), room_bytes)
    limit_bytes = min(memory_bytes, room_bytes)
    if wanted_bytes > limit_bytes:
        what = "this machine's memory" if memory_bytes <= room_bytes else f"the free space of {where}"
        raise ConfigError(
            f"arena.budget_bytes: {wanted_bytes} bytes exceed {what}, {limit_bytes} bytes; "
            "lower the budget, or set it to 0 for the default",
            param="arena.budget_bytes",
            source="agent",
        )
    return wanted_bytes
