# SPDX-License-Identifier: Apache-2.0
"""Where a stream ran, when it ran in more than one place: part of a request's timeline, and of `/admin/requests`."""

from __future__ import annotations

from typing import Literal

import msgspec

Resumption = Literal["begun", "attached", "continued", "failed"]
"""How a stream got on: over a new connection to the same run, or in another run; or not."""


class Hop(msgspec.Struct, frozen=True):
    """The stream broke after `seq` ids were delivered, for `reason` (an error's code): at which agent it went on, and
    how. The first hop is where it began."""

    agent_id: str
    seq: int
    how: Resumption
    reason: str = ""
