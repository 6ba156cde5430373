# SPDX-License-Identifier: Apache-2.0
"""How often each model is called: calls per second, decayed, so that what was not called lately counts little.

rate = Σ over calls of e^(−age / MEMORY_S) / MEMORY_S, kept as one number and its time per model
`fast` forgets sooner: a model whose fast rate is well above its slow one is being called more and more.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Ints

MEMORY_S: Final = 30.0
FAST_MEMORY_S: Final = 5.0
_GROWTH: Final = 2


class Demand:
    """By model index; grows as indexes come. Times are monotonic seconds."""

    def __init__(self, num_models: int = 64) -> None:
        self._rate = np.zeros(num_models)
        self._fast = np.zeros(num_models)
        self._noted_s = np.zeros(num_models)

    def note(self, index: int, now_s: float) -> None:
        """One call."""
        if index >= len(self._rate):
            self._grow(index + 1)
        age_s = max(0.0, now_s - self._noted_s[index])
        self._rate[index] = self._rate[index] * math.exp(-age_s / MEMORY_S) + 1 / MEMORY_S
        self._fast[index] = self._fast[index] * math.exp(-age_s / FAST_MEMORY_S) + 1 / FAST_MEMORY_S
        self._noted_s[index] = now_s

    def rates(self, indexes: Ints, now_s: float) -> Floats:
        """Calls per second of each index (any shape); 0 for negative and unknown ones."""
        known = (indexes >= 0) & (indexes < len(self._rate))
        safe = np.where(known, indexes, 0)
        age_s = np.maximum(0.0, now_s - self._noted_s[safe])
        return np.where(known, self._rate[safe] * np.exp(-age_s / MEMORY_S), 0.0)

    def rate(self, index: int, now_s: float) -> float:
        """Of one model."""
        return float(self.rates(np.array([index]), now_s)[0])

    def fast_rate(self, index: int, now_s: float) -> float:
        """Of one model, over the last seconds."""
        if not 0 <= index < len(self._fast):
            return 0.0
        age_s = max(0.0, now_s - self._noted_s[index])
        return float(self._fast[index] * math.exp(-age_s / FAST_MEMORY_S))

    def _grow(self, num_models: int) -> None:
        more = max(num_models, _GROWTH * len(self._rate)) - len(self._rate)
        self._rate, self._fast, self._noted_s = (
            np.concatenate([array, np.zeros(more)]) for array in (self._rate, self._fast, self._noted_s)
        )
