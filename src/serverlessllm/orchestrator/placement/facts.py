# SPDX-License-Identifier: Apache-2.0
"""What a placement decision may know: the model's need, and each agent's facts. Values only."""

from __future__ import annotations

from dataclasses import dataclass

CPU_DEVICE_SET = "cpu"


@dataclass(frozen=True, slots=True)
class Need:
    """A model that wakes. `nbytes` are its weights."""

    model: str
    revision: str
    engine: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """One (agent, device set) at this moment.

    `bytes_per_s` is the observed bandwidth of the tier that the missing bytes come from (0: never observed).
    `queue_s` are the expected seconds of the loads before us; `num_failures` loads failed in a row.
    """

    agent_id: str
    device_set: str
    is_alive: bool
    is_drained: bool
    engines: frozenset[str]
    budget_bytes: int
    bytes_missing: int
    bytes_per_s: float
    queue_s: float
    num_failures: int
