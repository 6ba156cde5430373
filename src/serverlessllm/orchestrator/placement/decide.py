# SPDX-License-Identifier: Apache-2.0
"""One placement decision, from the filters' answer over the score to the pick. Its record is made when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Tiers
from serverlessllm.orchestrator.placement.filter import FITS, REASONS, Reason
from serverlessllm.orchestrator.placement.pick import pick
from serverlessllm.orchestrator.placement.score import score
from serverlessllm.wire.admin import Candidate

_UNCOUNTED: Final = [REASONS.index("excluded"), REASONS.index("alive")]


@dataclass(frozen=True, slots=True)
class Decision:
    """`picked` is the row of the pick, None if none may take it. All arrays have one element per row."""

    rejected: Tiers
    terms_s: Mapping[str, Floats]
    scores_s: Floats
    weights: Mapping[str, float]
    picked: int | None
    probability: float

    def is_rejected_only_for(self, reason: Reason) -> bool:
        """Whether there were candidates, and each that is alive and not excluded was dropped for `reason`."""
        counted = self.rejected[~np.isin(self.rejected, _UNCOUNTED)]
        return bool(len(counted)) and bool((counted == REASONS.index(reason)).all())

    def candidates(self, agent_ids: Sequence[str], device_sets: Sequence[str]) -> list[Candidate]:
        """What the record shows; names are by row, rows without one are left out."""
        return [
            self._candidate(row, agent_id, device_sets[row])
            for row, agent_id in enumerate(agent_ids)
            if agent_id
        ]

    def _candidate(self, row: int, agent_id: str, device_set: str) -> Candidate:
        if self.rejected[row] != FITS:
            return Candidate(agent_id, device_set, rejected=REASONS[self.rejected[row]])
        terms_s = {name: round(float(seconds[row]), 6) for name, seconds in self.terms_s.items()}
        return Candidate(agent_id, device_set, None, terms_s, round(float(self.scores_s[row]), 6))


def decide(
    rejected: Tiers, terms_s: Mapping[str, Floats], weights: Mapping[str, float], rng: Random
) -> Decision:
    """Pure but for `rng`."""
    scores_s = score(terms_s, weights)
    open_s = np.where(rejected == FITS, scores_s, np.inf)
    if not np.isfinite(open_s).any():
        return Decision(rejected, terms_s, scores_s, weights, None, 0.0)
    picked, probability = pick(open_s, rng)
    return Decision(rejected, terms_s, scores_s, weights, picked, probability)
