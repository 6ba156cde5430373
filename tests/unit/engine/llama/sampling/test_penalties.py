# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from serverlessllm.engine.llama.sampling.penalties import Penalties, has_penalties
from serverlessllm.wire.worker import SamplingParams


def penalised(penalties: Penalties, logits: list[float]) -> list[float]:
    row = np.array(logits, dtype=np.float32)
    penalties.apply(row)
    values: list[float] = row.tolist()
    return values


def test_repetition_counts_prompt_and_output_like_transformers() -> None:
    penalties = Penalties(SamplingParams(repetition_penalty=1.5), [0, 1], [2])
    logits = [2.0, -2.0, 3.0, 4.0]
    reference = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 1, 2]]), torch.tensor([logits]))
    assert penalised(penalties, logits) == pytest.approx(reference[0].tolist())


def test_presence_and_frequency_count_the_output_only() -> None:
    penalties = Penalties(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25), [0], [1, 2, 2])
    assert penalised(penalties, [1.0, 1.0, 1.0, 1.0]) == [1.0, 0.25, 0.0, 1.0]


def test_observed_ids_count_like_generated_ones() -> None:
    params = SamplingParams(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.25)
    observing = Penalties(params, [0], [])
    for token_id in (1, 3, 3):
        observing.observe(token_id)
    logits = [1.0, -1.0, 2.0, 0.5]
    assert penalised(observing, logits) == penalised(Penalties(params, [0], [1, 3, 3]), logits)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), False),
        (SamplingParams(repetition_penalty=1.1), True),
        (SamplingParams(presence_penalty=-0.1), True),
        (SamplingParams(frequency_penalty=0.1), True),
    ],
)
def test_penalties_are_off_by_default(params: SamplingParams, expected: bool) -> None:
    assert has_penalties(params) is expected
