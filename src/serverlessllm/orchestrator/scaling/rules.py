# SPDX-License-Identifier: Apache-2.0
"""When a model should have another replica, one less, or its bytes nearer. Pure: numbers in, an answer out.

more    the shortest wait for a seat > the expected start of another replica        (both in seconds)
fewer   without one of them the others would still have SPARE of their seats free
warmer  calls of the last seconds > RISING · calls of the last half minute, and they fill more than BUSY of the seats
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.terms.queue_wait import seat_wait_s

SPARE: Final = 0.5
RISING: Final = 1.5
BUSY: Final = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """One replica: requests there, how many of them are computed together, and for how long each (0: not known)."""

    num_requests: int
    num_seats: int
    request_s: float


def wait_s(loads: Sequence[Load]) -> float:
    """The shortest expected wait for a seat at any of them; infinite where there is none.

    While no request has ended anywhere, nobody knows: 0.
    """
    if not loads:
        return float("inf")
    requests = np.array([float(load.num_requests) for load in loads])
    seats = np.array([float(load.num_seats) for load in loads])
    seen = [load.request_s for load in loads if load.request_s > 0]
    service_s = np.array([load.request_s or max(seen, default=0.0) for load in loads])
    return float(seat_wait_s(requests, seats, service_s).min())


def has_spare(loads: Sequence[Load]) -> bool:
    """Whether one of several may go: its share fits beside the others', with room left."""
    if len(loads) < 2:
        return False
    seats_left = sum(load.num_seats for load in loads) - max(load.num_seats for load in loads)
    return sum(load.num_requests for load in loads) <= SPARE * seats_left


def is_rising(fast_per_s: float, slow_per_s: float, loads: Sequence[Load]) -> bool:
    """Whether demand grows and fills the seats that there are; a model without any is being woken as it is."""
    num_seats = sum(load.num_seats for load in loads)
    request_s = max((load.request_s for load in loads), default=0.0)
    return num_seats > 0 and fast_per_s > RISING * slow_per_s and fast_per_s * request_s > BUSY * num_seats
