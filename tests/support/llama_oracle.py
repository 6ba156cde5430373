# SPDX-License-Identifier: Apache-2.0
"""The oracle of answers: equal ids to those computed one sequence at a time in one worker, or a near tie.

A first difference is allowed where the reference's margin between the two ids is < 1e-3 in float32; such are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.engine.llama.sampling.noise import draw_bits, draw_key, gumbel, token_counters
from serverlessllm.wire.worker import Generate, SamplingParams
from support.tiny_llama import TinyModel, attached_engine, generate_ids, request

MARGIN = 1e-3
VOCAB = 211
Played = dict[tuple[int, int], list[int]]
"""(number of the arrival, choice) → its ids."""


def unshared(tiny: TinyModel) -> LlamaEngine:
    """The reference: one sequence at a time. With one block more than a request takes, it hardly ever hits."""
    return attached_engine(tiny.weights, max_num_seqs=1, num_blocks=5)


@dataclass(frozen=True)
class Arrival:
    """A request `gap_steps` after the one before, cancelled once `cancel_after` ids came (None: never)."""

    gap_steps: int
    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    seed: int
    cancel_after: int | None
    choice: int = 0
    num_choices: int = 1

    def as_requests(self, number: int) -> list[Generate]:
        """One per choice, of the request `r<number>`."""
        sampling = SamplingParams(temperature=self.temperature, seed=self.seed)
        return [
            request(f"r{number}", self.prompt_ids, self.max_tokens, sampling, choice=choice)
            for choice in range(self.choice, self.choice + self.num_choices)
        ]


@dataclass
class Oracle:
    """One model, and the engine that gives its reference answers."""

    tiny: TinyModel
    single: LlamaEngine
    num_near_ties: int = 0
    num_compared: int = 0

    def margin(self, item: Generate, ids: list[int], other: int, chosen: int) -> float:
        """How much the reference prefers `chosen` over `other` after `ids`, noise included."""
        logits = self.tiny.reference_logits(ids)[-1].numpy().astype(np.float64)
        if item.sampling.temperature > 0:
            logits /= item.sampling.temperature
            key = draw_key(item.sampling.seed, item.choice, len(ids))
            logits += gumbel(draw_bits(key, token_counters(np.arange(VOCAB))))
        return float(logits[chosen] - logits[other])

    def compare_all(self, arrivals: list[Arrival], got: Played) -> None:
        """Every answer of `got`."""
        for number, arrival in enumerate(arrivals):
            for item in arrival.as_requests(number):
                ids = got[number, item.choice]
                self.compare(item, ids, is_whole=arrival.cancel_after is None)

    def compare(self, item: Generate, ids: list[int], *, is_whole: bool) -> None:
        """One answer; what was cancelled may end early."""
        self.num_compared += 1
        expected = generate_ids(self.single, item)[item.request_id]
        if is_whole:
            assert len(ids) == len(expected)
        for index, (got, wanted) in enumerate(zip(ids, expected, strict=False)):
            if got != wanted:
                prefix = [*item.prompt_ids, *expected[:index]]
                assert self.margin(item, prefix, got, wanted) < MARGIN
                self.num_near_ties += 1
                return
