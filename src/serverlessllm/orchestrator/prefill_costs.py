# SPDX-License-Identifier: Apache-2.0
"""What requests cost on each agent, as observed: seconds per prompt token, per prompt, and in a seat. Pure; reads no
clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SMOOTHING: Final = 0.2
"""Weight of the newest request in a mean."""
MAX_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """`token_s` per prompt token that is computed; `request_s` what a prompt before ours keeps the engine busy;
    `service_s` how long a request holds its seat, from its prompt to its last token.

    The defaults are assumed until a first request was seen.
    """

    token_s: float = 0.001
    request_s: float = 0.05
    service_s: float = 1.0


class PrefillCosts:
    """Means per (agent, revision); those not renewed for longest are forgotten beyond `MAX_KNOWN`."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], PrefillCost] = {}
        self._service_s: dict[str, float] = {}

    def of(self, agent_id: str, revision: str) -> PrefillCost:
        """The observed means, or the assumed ones."""
        return self._known.get((agent_id, revision), _ASSUMED)

    def service_s(self, revision: str) -> float:
        """How long a request of the revision holds a seat, wherever it was."""
        return self._service_s.get(revision, _ASSUMED.service_s)

    def note(
        self,
        agent_id: str,
        revision: str,
        *,
        num_computed_tokens: int,
        prefill_s: float,
        service_s: float = 0.0,
    ) -> None:
        """A prompt of which so many tokens were computed took `prefill_s`, and all of its request `service_s`.

        One that was not timed is ignored; `service_s` 0 is not known.
        """
        if num_computed_tokens <= 0 or prefill_s <= 0:
            return
        key = (agent_id, revision)
        service_s = service_s or self.of(agent_id, revision).service_s
        seen = PrefillCost(prefill_s / num_computed_tokens, prefill_s, service_s)
        mean_s = self._service_s.pop(revision, service_s)
        self._service_s[revision] = mean_s + SMOOTHING * (service_s - mean_s)
        if len(self._service_s) > MAX_KNOWN:
            del self._service_s[next(iter(self._service_s))]
        before = self._known.pop(key, None)
        self._known[key] = seen if before is None else _mean(before, seen)
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


_ASSUMED: Final = PrefillCost()


def _mean(before: PrefillCost, seen: PrefillCost) -> PrefillCost:
    return PrefillCost(
        before.token_s + SMOOTHING * (seen.token_s - before.token_s),
        before.request_s + SMOOTHING * (seen.request_s - before.request_s),
        before.service_s + SMOOTHING * (seen.service_s - before.service_s),
    )
