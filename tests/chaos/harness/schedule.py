# SPDX-License-Identifier: Apache-2.0
"""Which faults happen when: a pure function of a seed, so that a run can be repeated.

At most NUM_FAULTY of each role are in trouble at a time: somebody is left to go on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Kind = Literal["kill", "pause", "cut", "kill worker", "pause worker"]
Role = Literal["agent", "orchestrator", "store"]

LEASE_S: Final = 3.0
"""How long a lease lasts in these runs; long troubles outlast it."""
NUM_FAULTY: Final[dict[Role, int]] = {"agent": 2, "orchestrator": 1, "store": 1}
_SHORT_S: Final = (0.2, 1.5)
_LONG_S: Final = (LEASE_S + 1.0, LEASE_S + 3.5)
_DOWN_S: Final = (0.1, 1.5)
_LONG_RATIO: Final = 0.4
_KINDS: Final[dict[Role, tuple[Kind, ...]]] = {
    "agent": ("kill", "pause", "cut", "kill worker", "pause worker"),
    "orchestrator": ("kill", "pause"),
    "store": ("kill", "pause"),
}
_WEIGHTS: Final[dict[Role, int]] = {"agent": 5, "orchestrator": 2, "store": 2}
_MAX_TRIES: Final = 1000


@dataclass(frozen=True)
class Fault:
    """Something bad for part `number` of its role, from `at_s` after the start on, undone `lasts_s` later."""

    at_s: float
    kind: Kind
    role: Role
    number: int
    lasts_s: float

    @property
    def end_s(self) -> float:
        """When it is undone."""
        return self.at_s + self.lasts_s

    def overlaps(self, other: Fault) -> bool:
        """Whether both last at some moment."""
        return self.at_s < other.end_s and other.at_s < self.end_s

    def __str__(self) -> str:
        return f"{self.at_s:5.2f} s: {self.kind} {self.role} {self.number} for {self.lasts_s:.2f} s"


@dataclass(frozen=True)
class Bounds:
    """How many faults in which time, against how many parts; `roles` and `kinds` may leave some out."""

    num_faults: int = 14
    first_s: float = 1.0
    last_s: float = 12.0
    num_agents: int = 4
    num_orchestrators: int = 2
    roles: Sequence[Role] = ("agent", "orchestrator", "store")
    kinds: Sequence[Kind] = _KINDS["agent"]


def plan(seed: int, bounds: Bounds) -> list[Fault]:
    """The faults of a run, by time."""
    pick, faults = Random(seed), list[Fault]()
    for _ in range(_MAX_TRIES):
        if len(faults) == bounds.num_faults:
            break
        fault = _draw(pick, bounds)
        if _is_bearable(fault, faults):
            faults.append(fault)
    return sorted(faults, key=lambda fault: fault.at_s)


def _draw(pick: Random, bounds: Bounds) -> Fault:
    role = pick.choices(bounds.roles, [_WEIGHTS[role] for role in bounds.roles])[0]
    number = pick.randrange(
        {"agent": bounds.num_agents, "orchestrator": bounds.num_orchestrators}.get(role, 1)
    )
    kind = pick.choice([kind for kind in _KINDS[role] if kind in bounds.kinds])
    lasts_s = _DOWN_S if kind == "kill" else _LONG_S if pick.random() < _LONG_RATIO else _SHORT_S
    at_s = pick.uniform(bounds.first_s, bounds.last_s)
    return Fault(at_s, kind, role, number, 0.0 if kind == "kill worker" else pick.uniform(*lasts_s))


def _is_bearable(fault: Fault, others: Sequence[Fault]) -> bool:
    rivals = [other for other in others if other.role == fault.role and other.overlaps(fault)]
    return len(rivals) < NUM_FAULTY[fault.role] and all(rival.number != fault.number for rival in rivals)
