# SPDX-License-Identifier: Apache-2.0
"""How long a request, or a load, waits for those before it. Seconds from observed service times.

at a replica    max(0, n + 1 − B) · s / B  +  n · p
                n requests there, B computed together, s seconds each at the engine, p seconds to compute a prompt
on a node       the loads that read the medium we need, and k · FREES · s / (busy seats), where k loads, ours among
                them, have neither a free seat nor one whose replica is idle
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Bools, Floats, Ints

FREES: Final = 2.0
"""A replica in use is idle after about so many service times: others came after the first of its requests."""


def seat_wait_s(num_requests: Floats, num_seats: Floats, service_s: Floats) -> Floats:
    """Seconds until a replica has a seat for one more; `num_seats` 0 is unknown: nobody waits."""
    seats = np.maximum(num_seats, 1.0)
    waiting = np.maximum(num_requests + 1.0 - seats, 0.0)
    return np.where(num_seats > 0, waiting * service_s / seats, 0.0)


def replica_wait_s(num_requests: Floats, num_seats: Floats, service_s: Floats, prompt_s: Floats) -> Floats:
    """At a ready replica: the wait for a seat, and the prompts that are computed before ours."""
    return seat_wait_s(num_requests, num_seats, service_s) + num_requests * prompt_s


def node_wait_s(
    loads_s: Floats, needs_medium: Bools, num_short: Ints, num_busy: Ints, service_s: float
) -> Floats:
    """On a node that shall load: `loads_s` of others where bytes must be read, and `num_short` busy seats' ends."""
    reading_s = np.where(needs_medium, loads_s, 0.0)
    return reading_s + num_short * FREES * service_s / np.maximum(1, num_busy)
