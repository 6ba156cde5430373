# SPDX-License-Identifier: Apache-2.0
"""Pick the next id of each sequence. A pure function of logits, parameters and ids; knows no model.

Order: repetition penalty, presence and frequency penalties, then temperature, top_k, top_p, min_p, then
Gumbel-max: `argmax(logits / temperature + noise)` over what the filters left (see noise.py for the noise).
Temperature 0 takes the largest logit after the penalties; the lowest id wins a tie.

Source: Gumbel-max trick, Gumbel 1954; Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serverlessllm.engine.llama.sampling.filters import filter_threshold, has_filters
from serverlessllm.engine.llama.sampling.noise import UInt64Array, draw_bits, draw_key, gumbel, token_counters
from serverlessllm.engine.llama.sampling.penalties import Penalties
from serverlessllm.wire.worker import SamplingParams

Float32Array = npt.NDArray[np.float32]

_MIN_TEMPERATURE: Final = 1e-6
"""Smaller temperatures sample like this one: dividing by less would overflow float32."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row of logits is sampled with. `position` is the index that the sampled id will have."""

    params: SamplingParams
    choice: int
    position: int
    penalties: Penalties | None = None

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the largest raw logit is the answer."""
        return self.params.temperature == 0.0 and self.penalties is None


class Sampler:
    """Samples rows of one vocabulary; holds only tables that depend on its size."""

    def __init__(self, vocab_size: int) -> None:
        self._counters = token_counters(np.arange(vocab_size, dtype=np.int64))

    def sample(self, logits: Float32Array, draws: Sequence[Draw]) -> list[int]:
        """The next id per row of `logits` (num_draws, vocab), which may be overwritten.

        Rows that are not finite yield some id of the vocabulary; the caller's model is at fault.
        """
        ids: list[int] = logits.argmax(axis=1).tolist()
        for row, draw in enumerate(draws):
            if not draw.is_plain_greedy:
                ids[row] = self._sample_row(logits[row], ids[row], draw)
        return ids

    def _sample_row(self, logits: Float32Array, largest_id: int, draw: Draw) -> int:
        if draw.penalties is not None:
            draw.penalties.apply(logits)
            largest_id = int(logits.argmax())
        largest = logits[largest_id]
        if draw.params.temperature == 0.0 or not np.isfinite(largest):
            return largest_id
        scaled = logits
        scaled -= largest
        scaled /= np.float32(max(draw.params.temperature, _MIN_TEMPERATURE))
        key = draw_key(draw.params.seed, draw.choice, draw.position)
        if not has_filters(draw.params):
            return _argmax_perturbed(scaled, key, self._counters)
        kept = np.flatnonzero(scaled >= filter_threshold(scaled, draw.params))
        return int(kept[_argmax_perturbed(scaled[kept], key, self._counters[kept])])


def _argmax_perturbed(scaled: Float32Array, key: int, counters: UInt64Array) -> int:
    """Index of the largest `scaled + noise`.

    The logarithms are taken only where an id can still win: noise grows with the bits, so an id whose logit
    plus the row's largest noise stays below what the largest logit already has is out.
    """
    bits = draw_bits(key, counters)
    first = int(scaled.argmax())
    to_beat = float(scaled[first]) + float(gumbel(bits[first : first + 1])[0])
    largest_noise = float(gumbel(bits.max(keepdims=True))[0])
    able = np.flatnonzero(scaled >= np.float32(to_beat - largest_noise - 1e-3))
    if able.size == 0:
        return first
    perturbed = scaled[able].astype(np.float64) + gumbel(bits[able])
    return int(able[perturbed.argmax()])
