# SPDX-License-Identifier: Apache-2.0
"""How large the arena may be."""

from __future__ import annotations

import pytest

from serverlessllm.arena.memory import choose_budget_bytes, machine_memory_bytes
from serverlessllm.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("wanted", "room", "chosen"), [(0, 64 * GIB, 4 * GIB), (0, GIB, GIB), (3 * GIB, 64 * GIB, 3 * GIB)]
)
def test_budget_is_forty_percent_of_memory_or_what_was_asked(wanted: int, room: int, chosen: int) -> None:
    assert choose_budget_bytes(wanted, memory_bytes=10 * GIB, room_bytes=room, where="/dev/shm") == chosen


@pytest.mark.parametrize(("memory", "named"), [(2 * GIB, "this machine's memory"), (9 * GIB, "/dev/shm")])
def test_budget_that_cannot_be_met_names_the_limit(memory: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as failure:
        choose_budget_bytes(8 * GIB, memory_bytes=memory, room_bytes=7 * GIB, where="/dev/shm")
    assert failure.value.param == "arena.budget_bytes"


def test_this_machine_has_memory() -> None:
    assert machine_memory_bytes() > 64 << 20
