# SPDX-License-Identifier: Apache-2.0
"""When the rest of a request is small enough to hand it over. Pure.

Each round brings the destination the ids that were sampled during the one before. A round of n ids takes it about
n · (seconds per prompt id), during which the source samples (that time) / (seconds per id): where a prompt is
computed faster than an answer is decoded, rounds shrink by that ratio, and a few are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

HANDOVER_IDS: Final = 4
"""With so few ids left the destination's next step computes them and the next id together."""
MAX_ROUNDS: Final = 12
LAST_RESORT_IDS: Final = 64
"""What a handover may leave to compute where rounds do not shrink: about one step of a prompt."""

Verdict = Literal["round", "hand_over", "give_up"]


@dataclass(slots=True)
class Rounds:
    """Of one move. `num_ids` were sent in all, in `num_rounds`."""

    num_rounds: int = 0
    num_ids: int = 0
    _last: int = 0

    def sent(self, num_ids: int) -> None:
        """A round is over: the destination has computed `num_ids` more."""
        self.num_rounds += 1
        self.num_ids += num_ids
        self._last = num_ids

    def next(self, num_left: int) -> Verdict:
        """What to do with the `num_left` ids that were sampled meanwhile.

        Ensures an end: after MAX_ROUNDS no further round is asked for.
        """
        if num_left <= HANDOVER_IDS:
            return "hand_over"
        if self.num_rounds >= MAX_ROUNDS:
            return "hand_over" if num_left <= LAST_RESORT_IDS else "give_up"
        if self.num_rounds > 1 and num_left >= self._last and num_left <= LAST_RESORT_IDS:
            return "hand_over"  # they do not shrink: another round would gain nothing
        return "round"
