# SPDX-License-Identifier: Apache-2.0
"""What it costs to ask one who failed: who fails fast must not look idle. Not weighted: no setting turns it off.

failures = 0.5 · 2^(failures in a row), at most 30 s
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Ints

MAX_FAILURE_S: Final = 30.0


def failures_s(num_failures: Ints) -> Floats:
    """Seconds of penalty."""
    penalty = np.minimum(MAX_FAILURE_S, 0.5 * 2.0 ** np.minimum(num_failures, 10))
    return np.where(num_failures > 0, penalty, 0.0)
