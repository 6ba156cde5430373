# SPDX-License-Identifier: Apache-2.0
"""When a move hands over: rounds shrink, end in any case, and leave little to compute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.migration.rounds import HANDOVER_IDS, LAST_RESORT_IDS, MAX_ROUNDS, Rounds


def played(num_tokens: int, prompt_id_s: float, answer_id_s: float) -> tuple[str, Rounds, int]:
    """How a move of so many ids ends, with so many seconds per id at the destination and at the source."""
    rounds, left = Rounds(), num_tokens
    while True:
        rounds.sent(left)
        left = int(left * prompt_id_s / answer_id_s)
        verdict = rounds.next(left)
        if verdict != "round":
            return verdict, rounds, left


def test_two_thousand_ids_are_handed_over_after_a_few_rounds() -> None:
    verdict, rounds, left = played(2000, prompt_id_s=0.002, answer_id_s=0.02)
    assert (verdict, rounds.num_rounds, left) == ("hand_over", 3, 2)
    assert rounds.num_ids == 2000 + 200 + 20


def test_destination_slower_than_the_source_is_given_up() -> None:
    assert played(2000, prompt_id_s=0.03, answer_id_s=0.02)[0] == "give_up"


@given(
    num_tokens=st.integers(1, 10_000),
    prompt_id_s=st.floats(1e-6, 0.1),
    answer_id_s=st.floats(1e-3, 0.1),
)
def test_every_move_ends_and_never_hands_much_over(
    num_tokens: int, prompt_id_s: float, answer_id_s: float
) -> None:
    verdict, rounds, left = played(num_tokens, prompt_id_s, answer_id_s)
    assert rounds.num_rounds <= MAX_ROUNDS
    assert left <= LAST_RESORT_IDS if verdict == "hand_over" else left > LAST_RESORT_IDS


@pytest.mark.parametrize("num_left", [0, 1, HANDOVER_IDS])
def test_few_ids_are_handed_over_at_once(num_left: int) -> None:
    assert Rounds().next(num_left) == "hand_over"
