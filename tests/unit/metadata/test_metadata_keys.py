# SPDX-License-Identifier: Apache-2.0
"""Key names: fixed, and no key of one thing under the prefix of another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.metadata.keys import Keys

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_key_names_are_those_of_the_schema() -> None:
    assert Keys.model("llama") == "/sllm/v1/models/llama"
    assert Keys.model("org/m.1") == "/sllm/v1/models/org%2Fm.1"
    assert Keys.artifact("ab12") == "/sllm/v1/artifacts/ab12"
    assert Keys.agent("agent-1") == "/sllm/v1/agents/agent-1"
    assert Keys.placement("org/m", "0") == "/sllm/v1/placements/org%2Fm/0"
    assert Keys.tenant("t") == "/sllm/v1/tenants/t"
    assert Keys.api_key("00ff") == "/sllm/v1/keys/00ff"
    assert Keys.SCHEDULER_WEIGHTS == "/sllm/v1/scheduler/weights"


@given(name=NAMES)
def test_last_segment_gives_the_name_back(name: str) -> None:
    assert Keys.last_segment(Keys.model(name)) == name


@given(model=NAMES, other=NAMES, replica=NAMES)
def test_placements_of_one_model_are_not_those_of_another(model: str, other: str, replica: str) -> None:
    is_under = Keys.placement(other, replica).startswith(Keys.placements(model))
    assert is_under == (model == other)
