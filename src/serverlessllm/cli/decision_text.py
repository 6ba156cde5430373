# SPDX-License-Identifier: Apache-2.0
"""Why a placement decision fell as it did, in one sentence. Pure; knows no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serverlessllm.cli.units import duration_text

if TYPE_CHECKING:
    from serverlessllm.wire.admin import Candidate, PlacementDecision


def why(decision: PlacementDecision) -> str:
    """What set the picked candidate apart from the next best one."""
    picked = next((each for each in decision.candidates if each.agent_id == decision.picked), None)
    if picked is None or picked.score_s is None:
        return "no candidate could take it"
    others = [
        each for each in decision.candidates if each.score_s is not None and each.agent_id != picked.agent_id
    ]
    if not others:
        return "no other could take it"
    if decision.probability < 1:
        return f"one of {round(1 / decision.probability)} as good as each other, drawn at random"
    second = min(others, key=lambda each: each.score_s or 0.0)
    best, next_best = duration_text(picked.score_s), duration_text(second.score_s or 0.0)
    return f"{best} expected; {second.agent_id} would take {next_best}{_most(picked, second, decision)}"


def _most(picked: Candidate, second: Candidate, decision: PlacementDecision) -> str:
    """The term that costs the second most more, as it was weighed."""
    more_s = {
        name: decision.weights.get(name, 1.0) * (seconds - picked.terms_s.get(name, 0.0))
        for name, seconds in second.terms_s.items()
    }
    name = max(more_s, key=lambda term: more_s[term], default=None)
    if name is None or more_s[name] <= 0:
        return ""
    return f", mostly for {name} (+{duration_text(more_s[name])})"
