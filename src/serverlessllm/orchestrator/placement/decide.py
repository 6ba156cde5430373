# SPDX-License-Identifier: Apache-2.0
"""One placement decision, from filter over score to pick, with the record that explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from serverlessllm.orchestrator.placement.facts import AgentFacts, Need
from serverlessllm.orchestrator.placement.filter import reject
from serverlessllm.orchestrator.placement.pick import pick
from serverlessllm.orchestrator.placement.score import score, terms
from serverlessllm.wire.admin import Candidate


@dataclass(frozen=True, slots=True)
class Decision:
    """`picked` is an index into `candidates` (which are in the order of the facts), None if none may take it."""

    candidates: tuple[Candidate, ...]
    picked: int | None
    probability: float

    def is_rejected_only_for(self, reason: str) -> bool:
        """Whether there were agents, and each that is not excluded was dropped for `reason`."""
        reasons = {item.rejected for item in self.candidates if item.rejected != "excluded"}
        return reasons == {reason}


def decide(
    need: Need,
    agents: Sequence[AgentFacts],
    excluded: frozenset[str],
    weights: Mapping[str, float],
    rng: Random,
) -> Decision:
    """Pure but for `rng`. O(agents)."""
    candidates: list[Candidate] = []
    fit: list[int] = []
    for index, facts in enumerate(agents):
        rejected = reject(need, facts, excluded)
        terms_s = {} if rejected else terms(facts)
        candidates.append(
            Candidate(
                agent_id=facts.agent_id,
                device_set=facts.device_set,
                rejected=rejected,
                terms_s=terms_s,
                score_s=None if rejected else score(terms_s, weights),
            )
        )
        if rejected is None:
            fit.append(index)
    if not fit:
        return Decision(tuple(candidates), None, 0.0)
    chosen, probability = pick([candidates[index].score_s or 0.0 for index in fit], rng)
    return Decision(tuple(candidates), fit[chosen], probability)
