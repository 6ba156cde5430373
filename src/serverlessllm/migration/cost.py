# SPDX-License-Identifier: Apache-2.0
"""What moving a request costs, in seconds, and how: computing its cache anew, or copying it. Pure.

    recompute = ids that are not cached there · seconds per prompt id there
    copy      = full blocks · bytes per block / bytes per second  +  COPY_OVERHEAD_S per message
                + the ids after the last full block, computed
    move      = the smaller of both; it passes beside the decoding, so it is work, not a pause

Bandwidth and seconds per id are observed (EWMA), with priors until they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MoveMode = Literal["recompute", "copy"]

PRIOR_TOKEN_S: Final = 1e-3
"""Seconds per prompt id before one was observed: a 135M model on two cores; bigger models on GPUs come out alike."""
PRIOR_BYTES_PER_S: Final = 200e6
"""Between two agents, before a copy was observed."""
COPY_OVERHEAD_S: Final = 2e-3
_SMOOTHING: Final = 0.3


@dataclass(frozen=True, slots=True)
class MoveLoad:
    """What moves: `num_tokens` ids, `cached_tokens` of which the destination has. `block_bytes` 0: cannot copy."""

    num_tokens: int
    cached_tokens: int = 0
    block_tokens: int = 0
    block_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MoveCost:
    """Seconds by either way; `copy_s` None where it is none."""

    recompute_s: float
    copy_s: float | None

    @property
    def mode(self) -> MoveMode:
        """The cheaper way."""
        return "copy" if self.copy_s is not None and self.copy_s < self.recompute_s else "recompute"

    @property
    def seconds(self) -> float:
        """Of the cheaper way."""
        return self.recompute_s if self.copy_s is None else min(self.recompute_s, self.copy_s)


def move_cost(load: MoveLoad, *, token_s: float, bytes_per_s: float, message_bytes: int) -> MoveCost:
    """See the module. `message_bytes` is what one message of a copy carries."""
    uncached = max(0, load.num_tokens - load.cached_tokens)
    recompute_s = uncached * token_s
    if not load.block_bytes or not load.block_tokens or bytes_per_s <= 0:
        return MoveCost(recompute_s, None)
    num_blocks = uncached // load.block_tokens
    nbytes = num_blocks * load.block_bytes
    num_messages = -(-nbytes // max(message_bytes, load.block_bytes))
    rest = uncached - num_blocks * load.block_tokens
    copy_s = nbytes / bytes_per_s + num_messages * COPY_OVERHEAD_S + rest * token_s
    return MoveCost(recompute_s, copy_s)


class ObservedRate:
    """Seconds per unit (id, byte) of one destination, as an EWMA; `prior` until something was observed."""

    def __init__(self, prior: float) -> None:
        self._mean = prior
        self._has_seen = False

    @property
    def seconds_per_unit(self) -> float:
        """The mean."""
        return self._mean

    def note(self, units: float, seconds: float) -> None:
        """`units` took `seconds`; nothing is learned from none."""
        if units <= 0 or seconds <= 0:
            return
        value = seconds / units
        self._mean = value if not self._has_seen else self._mean + _SMOOTHING * (value - self._mean)
        self._has_seen = True
