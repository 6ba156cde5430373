# SPDX-License-Identifier: Apache-2.0
"""What prompts cost on each agent, as observed: seconds per token computed, and per request. Pure; reads no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SMOOTHING: Final = 0.2
"""Weight of the newest request in a mean."""
MAX_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """`token_s` per prompt token that is computed; `request_s` what a request before ours keeps the engine busy.

    The defaults are assumed until a first request was seen.
    """

    token_s: float = 0.001
    request_s: float = 0.05


class PrefillCosts:
    """Means per (agent, revision); those not renewed for longest are forgotten beyond `MAX_KNOWN`."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], PrefillCost] = {}

    def of(self, agent_id: str, revision: str) -> PrefillCost:
        """The observed means, or the assumed ones."""
        return self._known.get((agent_id, revision), _ASSUMED)

    def note(self, agent_id: str, revision: str, *, num_computed_tokens: int, prefill_s: float) -> None:
        """A prompt of which so many tokens were computed took `prefill_s`; one that was not timed is ignored."""
        if num_computed_tokens <= 0 or prefill_s <= 0:
            return
        seen = PrefillCost(prefill_s / num_computed_tokens, prefill_s)
        key = (agent_id, revision)
        before = self._known.pop(key, None)
        self._known[key] = seen if before is None else _mean(before, seen)
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


_ASSUMED: Final = PrefillCost()


def _mean(before: PrefillCost, seen: PrefillCost) -> PrefillCost:
    return PrefillCost(
        before.token_s + SMOOTHING * (seen.token_s - before.token_s),
        before.request_s + SMOOTHING * (seen.request_s - before.request_s),
    )
