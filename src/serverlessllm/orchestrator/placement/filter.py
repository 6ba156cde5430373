# SPDX-License-Identifier: Apache-2.0
"""Which candidates can take a model at all. The order is that of the answer a user needs: no engine before no room.

excluded  it refused or failed this very wake-up, or has the model already
alive     the agent's event stream is up
version   it speaks a wire version that we understand
drained   the agent was told to take nothing new
engine    the agent runs the model's engine
memory    the model's bytes fit the device set's whole budget (not: what is free now, that is eviction's business)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Bools, Tiers

Reason = Literal["excluded", "alive", "version", "drained", "engine", "ranks", "memory"]
REASONS: Final[tuple[Reason, ...]] = ("excluded", "alive", "version", "drained", "engine", "ranks", "memory")
FITS: Final = 255


def rejections(drops: Sequence[Bools]) -> Tiers:
    """Index into REASONS of the first filter that drops each candidate, FITS where none does.

    `drops` has one mask per reason, in their order.
    """
    found = np.full(drops[0].shape, FITS, dtype=np.uint8)
    for index in range(len(REASONS) - 1, -1, -1):
        found[drops[index]] = index
    return found
