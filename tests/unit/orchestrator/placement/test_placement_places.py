# SPDX-License-Identifier: Apache-2.0
"""The padded matrix says what a dict of sets would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serverlessllm.orchestrator.placement.places import EMPTY, Places

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 12), st.booleans()), max_size=80)


@settings(deadline=None)
@given(STEPS)
def test_places_hold_what_was_put_and_not_removed(steps: list[tuple[bool, int, int, bool]]) -> None:
    places = Places(num_rows=2, num_places=2)
    expected: dict[int, dict[int, bool]] = {}
    for is_put, row, model, mark in steps:
        held = expected.setdefault(row, {})
        if is_put:
            assert places.put(row, model, mark=mark) == (model not in held)
            held[model] = mark
        else:
            assert places.remove(row, model) == (held.pop(model, None) is not None)
    for row, held in expected.items():
        if row >= places.models.shape[0]:
            assert not held
            continue
        pairs = zip(places.models[row].tolist(), places.marks[row].tolist(), strict=True)
        assert {model: mark for model, mark in pairs if model != EMPTY} == held
        assert set(places.of(row)) == set(held)
