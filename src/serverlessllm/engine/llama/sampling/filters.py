# SPDX-License-Identifier: Apache-2.0
"""top_k, top_p and min_p as one lower bound on the scaled logits. Knows no noise and no ids.

Every filter keeps a set of the largest logits, so each is a threshold; ids with equal logits are kept or dropped
together, which makes the result independent of any sort order. Applied in the order top_k, top_p, min_p, each on
what the earlier ones left.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from serverlessllm.wire.worker import SamplingParams

Float32Array = npt.NDArray[np.float32]

_BINS_PER_UNIT = np.float32(16.0)
_LAST_BIN = np.float32(1023.0)


def has_filters(params: SamplingParams) -> bool:
    """Whether any filter may drop an id."""
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def filter_threshold(scaled: Float32Array, params: SamplingParams) -> np.float32:
    """The smallest scaled logit that survives.

    `scaled` (vocab,) float32: logits divided by the temperature, shifted so that the largest is 0.
    Ensures: the largest logit survives.
    """
    threshold = np.float32(-np.inf)
    if 0 < params.top_k < scaled.size:
        threshold = np.partition(scaled, scaled.size - params.top_k)[scaled.size - params.top_k]
    if params.top_p < 1.0:
        threshold = max(threshold, _nucleus(scaled[scaled >= threshold], params.top_p))
    if params.min_p > 0.0:
        threshold = max(threshold, np.float32(math.log(params.min_p)))
    return min(threshold, np.float32(0.0))


def _nucleus(scaled: Float32Array, top_p: float) -> np.float32:
    """The smallest logit of the smallest set of largest ones whose probability reaches `top_p`.

    A histogram finds the narrow band of logits where the sum crosses `top_p`; only that band is sorted.
    """
    bins = np.minimum(scaled * -_BINS_PER_UNIT, _LAST_BIN).astype(np.int64)
    reached = np.cumsum(np.bincount(bins, weights=np.exp(scaled)))
    target = top_p * float(reached[-1])
    crossing = int(np.searchsorted(reached, target))
    above = float(reached[crossing - 1]) if crossing else 0.0
    band = np.sort(scaled[bins == crossing])[::-1]
    index = int(np.searchsorted(above + np.cumsum(np.exp(band), dtype=np.float64), target))
    return np.float32(band[min(index, band.size - 1)])
