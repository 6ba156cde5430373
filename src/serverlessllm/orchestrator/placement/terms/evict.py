# SPDX-License-Identifier: Apache-2.0
"""What others lose by our coming: the value of what must go to make room, in seconds that its next callers wait.

evict        = seat + memory, each the value of the cheapest victim; 0 where there is room
value        = chance of a call · what that call then loses
chance       = 1 − e^(−rate · HORIZON_S)      rate: calls per second, decayed (`demand.py`), so that recency counts
seat loss    = bytes / (dram → device)        0 if the model has another replica
memory loss  = bytes / (nvme → dram)          0 if another node has it in DRAM
A seat in use cannot be had before it is idle: that is the queue's term, and its model counts as called for certain.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats

HORIZON_S: Final = 10.0
"""How long a victim would have stayed otherwise; calls later than that would have found it gone anyway."""


def chance(rate_per_s: Floats) -> Floats:
    """Of at least one call within the horizon."""
    return -np.expm1(-rate_per_s * HORIZON_S)


def cheapest(values_s: Floats) -> Floats:
    """Per row the smallest value; 0 where nothing can go (then the queue's term tells)."""
    if values_s.shape[1] == 0:
        return np.zeros(values_s.shape[0])
    least = values_s.min(axis=1)
    return np.where(np.isfinite(least), least, 0.0)
