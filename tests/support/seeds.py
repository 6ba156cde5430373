# SPDX-License-Identifier: Apache-2.0
"""Seeds of tests that do something at random: new ones in each run, and the old ones again when asked for."""

from __future__ import annotations

import os
import random
from typing import Final

VARIABLE: Final = "TEST_SEED"


def seeds(count: int) -> list[int]:
    """`count` neighbouring seeds; they stand in the tests' names. `TEST_SEED=N` makes N the first of them."""
    chosen = os.environ.get(VARIABLE)
    first = int(chosen) if chosen else random.SystemRandom().randrange(1 << 31)
    return list(range(first, first + count))
