# SPDX-License-Identifier: Apache-2.0
"""The score of each candidate: the weighted sum of its terms, in expected seconds of TTFT; smaller is better.

score = w_queue·queue + w_load·load + w_kv·kv + w_evict·evict + failures        (`terms/`, one file each)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serverlessllm.orchestrator.placement.arrays import Floats

DEFAULT_WEIGHTS: Final[Mapping[str, float]] = {"queue": 1.0, "load": 1.0, "kv": 1.0, "evict": 1.0}


def score(terms_s: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """A term without a weight counts once."""
    total = sum(weights.get(name, 1.0) * seconds for name, seconds in terms_s.items())
    if isinstance(total, int | float):
        raise ValueError("a score needs at least one term")
    return total
