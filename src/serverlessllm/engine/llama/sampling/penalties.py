# SPDX-License-Identifier: Apache-2.0
"""Repetition, presence and frequency penalties, counted incrementally. Knows no probabilities.

The counts are a function of the ids alone: a sequence rebuilt from prompt and generated ids penalises alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serverlessllm.wire.worker import SamplingParams


def has_penalties(params: SamplingParams) -> bool:
    """Whether any penalty changes logits."""
    return (
        params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    )


class Penalties:
    """Counts of one sequence, and their effect on a row of logits.

    repetition: each id of prompt or output; a positive logit is divided, a negative one multiplied (CTRL)
    presence:   subtracted once from each id of the output
    frequency:  subtracted from each id of the output as often as it occurs there
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], generated_ids: Sequence[int]
    ) -> None:
        self._params = params
        self._seen: dict[int, None] = dict.fromkeys(prompt_ids)
        self._counts: dict[int, int] = {}
        for token_id in generated_ids:
            self.observe(token_id)

    def observe(self, token_id: int) -> None:
        """Count an id of the output."""
        self._seen[token_id] = None
        self._counts[token_id] = self._counts.get(token_id, 0) + 1

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Change `logits` (vocab,) in place; repetition first, then presence and frequency."""
        params = self._params
        if params.repetition_penalty != 1.0 and self._seen:
            ids = np.fromiter(self._seen, np.int64, len(self._seen))
            row = logits[ids]
            factor = np.float32(params.repetition_penalty)
            logits[ids] = np.where(row > 0, row / factor, row * factor)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[ids] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts
