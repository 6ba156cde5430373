# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of ids, of the model itself: before temperature, filters and penalties. Pure; knows no draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serverlessllm.wire.worker import TokenLogprobs


class RowLogprobs:
    """One row of logits: the most likely ids now, and any id's log-probability once it is drawn."""

    def __init__(self, logits: npt.NDArray[np.float32], num_top: int) -> None:
        """`logits` (vocab,) may be overwritten afterwards; `num_top` 0 keeps no most likely ids."""
        largest = logits.max()
        self._logprobs = (logits - largest).astype(np.float64)
        self._logprobs -= np.log(np.exp(self._logprobs).sum())
        self._num_top = min(num_top, logits.size)

    def of(self, token_id: int) -> TokenLogprobs:
        """The drawn id's, and the `num_top` most likely ones in falling order; the lower id wins a tie."""
        logprobs = self._logprobs
        top: list[int] = []
        if self._num_top:
            bound = np.partition(logprobs, -self._num_top)[-self._num_top]
            able = np.flatnonzero(logprobs >= bound)
            top = able[np.argsort(-logprobs[able], kind="stable")][: self._num_top].tolist()
        return TokenLogprobs(float(logprobs[token_id]), top, logprobs[top].tolist() if top else [])
