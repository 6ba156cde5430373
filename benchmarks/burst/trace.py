# SPDX-License-Identifier: Apache-2.0
"""The trace that every run replays: when which model is called. Made from a seed; the same on every machine.

Gaps between calls are gamma distributed (mean 1 / RATE, coefficient of variation CV); models follow Zipf's law with
exponent ZIPF over their ranks, and every ROTATE_S all models change ranks: who was called most is not any more.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RATE_PER_S: Final = 50.0
CV: Final = 2.0
NUM_MODELS: Final = 30
ZIPF: Final = 1.2
ROTATE_S: Final = 60.0
ROTATE_BY: Final = 7
"""Coprime to the number of models: the hottest of a minute was of middle rank in the one before."""
SEEDS: Final = (11, 12, 13, 14, 15)
DIGEST: Final = "4fb70f2b"
"""Of the first seed's first 120 s: a changed generator is another benchmark."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `at_s` from the trace's beginning; `model` is an index."""

    at_s: float
    model: int


def make_trace(
    seed: int, seconds: float, *, rate_per_s: float = RATE_PER_S, num_models: int = NUM_MODELS
) -> list[Call]:
    """All calls in order of time."""
    rng = random.Random(seed)
    shape = 1 / CV**2
    cumulative = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, num_models + 1)))
    ranks = range(num_models)
    calls: list[Call] = []
    at_s = 0.0
    while True:
        at_s += rng.gammavariate(shape, 1 / (rate_per_s * shape))
        if at_s >= seconds:
            return calls
        [rank] = rng.choices(ranks, cum_weights=cumulative)
        calls.append(Call(at_s, (rank + ROTATE_BY * int(at_s // ROTATE_S)) % num_models))


def digest(calls: Sequence[Call]) -> str:
    """Eight hex digits of what the trace says, to the microsecond."""
    text = "".join(f"{call.at_s:.6f} {call.model}\n" for call in calls)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
