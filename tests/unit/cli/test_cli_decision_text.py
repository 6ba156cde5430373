# SPDX-License-Identifier: Apache-2.0
"""Why there, in words."""

from __future__ import annotations

import pytest

from serverlessllm.cli.decision_text import why
from serverlessllm.wire.admin import Candidate, PlacementDecision

NEAR = Candidate("near", "cpu", None, {"queue": 0.1, "load": 0.5}, 0.6)
FAR = Candidate("far", "cpu", None, {"queue": 0.0, "load": 2.0}, 2.0)
FULL = Candidate("full", "cpu", "memory")


def decision(
    *candidates: Candidate, picked: str | None = "near", probability: float = 1.0
) -> PlacementDecision:
    return PlacementDecision(
        model="m",
        revision="r",
        attempt=1,
        decided_s=0.0,
        candidates=list(candidates),
        weights={"queue": 1.0, "load": 1.0},
        picked=picked,
        probability=probability,
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (decision(FAR, NEAR), ["far would take 2", "mostly for load (+1.5"]),
        (decision(NEAR, FULL), ["no other could take it"]),
        (decision(NEAR, NEAR, FAR, probability=0.5), ["one of 2", "at random"]),
        (decision(FULL, picked=None, probability=0.0), ["no candidate"]),
    ],
)
def test_sentence_names_what_set_the_pick_apart(made: PlacementDecision, words: list[str]) -> None:
    sentence = why(made)
    assert all(word in sentence for word in words), sentence
