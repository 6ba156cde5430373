# SPDX-License-Identifier: Apache-2.0
"""Where a stream ran, when it ran in more than one place: part of a request's timeline, and of `/admin/requests`."""

from __future__ import annotations

from typing import Literal

import msgspec

Resumption = Literal["begun", "attached", "continued", "failed", "moved", "returned"]
"""How a stream got on: over a new connection to the same run, or in another run; or not. `moved` was no break: its
agent handed it over; `returned`: it was to move, and stayed."""


class Hop(msgspec.Struct, frozen=True):
    """The stream broke, or moved, after `seq` ids were delivered, for `reason` (an error's code): at which agent it
    went on, and how. The first hop is where it began. `pause_ms`: what its client waited for the next id."""

    agent_id: str
    seq: int
    how: Resumption
    reason: str = ""
    pause_ms: float = 0.0
