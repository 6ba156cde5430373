# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to requests, their blocks come back."""

from __future__ import annotations

import random

from serverlessllm.wire.worker import SamplingParams
from support.tiny_llama import attached_engine, build_tiny, request

NUM_LIVE = 40


def test_no_block_leaks_in_ten_thousand_random_operations() -> None:
    draw = random.Random(9)
    tiny = build_tiny("llama", {"num_hidden_layers": 1})
    engine = attached_engine(tiny.weights, max_num_seqs=4, num_blocks=9)
    prefix = [draw.randrange(200) for _ in range(128)]
    live: list[str] = []
    for number in range(10_000):
        match draw.randrange(4):
            case 0:
                live.append(f"r{number}")
                prompt, sampling = prefix[: draw.randrange(1, 128)], SamplingParams(seed=number)
                for choice in range(draw.choice((1, 1, 3))):
                    engine.add(request(live[-1], prompt, draw.randrange(1, 60), sampling, choice=choice))
            case 1 if live:
                engine.cancel(draw.choice(live), draw.choice((None, 0, 1)))
            case _:
                engine.step()
        if len(live) > NUM_LIVE:
            engine.cancel(live.pop(0))
        if number % 100 == 0:
            engine.check_integrity()
    assert engine.num_preempted > 0
    while engine.has_work:
        engine.step()
    engine.check_integrity()
