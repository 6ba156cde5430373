# SPDX-License-Identifier: Apache-2.0
"""Mistral and Gemma through the engine: windows and prompts in pieces, cached prefixes, bfloat16, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from serverlessllm.engine.base import EngineLimits
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.engine import create
from serverlessllm.errors import UnsupportedCheckpointError
from support.tiny_llama import (
    TinyModel,
    attached_engine,
    build_tiny,
    generate_ids,
    reference_weights,
    request,
)

GEMMA: dict[str, object] = {"sliding_window": 40, "query_pre_attn_scalar": 12, "tie_word_embeddings": True}
FAMILIES: dict[str, dict[str, object]] = {
    "mistral": {"sliding_window": 40},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "sliding_window_pattern": 2},
}
BASE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return build_tiny(request.param, FAMILIES[request.param])


def random_prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(211, (length,), generator=generator).tolist()
    return ids


def test_greedy_ids_are_those_of_the_reference_beyond_the_window(tiny: TinyModel) -> None:
    ids = random_prompt(70, seed=1)
    for token_id in generate_ids(attached_engine(tiny.weights), request("r", ids, 12))["r"]:
        logits = tiny.reference_logits(ids)[-1]
        assert logits.max() - logits[token_id] < 1e-3
        ids = [*ids, token_id]


def test_prompt_in_pieces_beside_a_stream_and_a_cached_prefix_change_nothing(tiny: TinyModel) -> None:
    prompt = random_prompt(330, seed=2)
    alone = generate_ids(attached_engine(tiny.weights), request("r", prompt, 10))["r"]
    engine = attached_engine(tiny.weights)
    engine.add(request("stream", [3, 4], 40))
    engine.step()
    together = generate_ids(engine, request("first", prompt, 10))
    again = generate_ids(engine, request("again", prompt, 10))
    assert together["first"] == again["again"] == alone


def test_bfloat16_stays_close_to_float32(tiny: TinyModel) -> None:
    prompt = random_prompt(60, seed=3)
    engine = create("bfloat16", 2)
    engine.attach_weights(reference_weights(tiny.reference, torch.bfloat16), EngineLimits(2, 0), {})
    (first,) = generate_ids(engine, request("r", prompt, 1))["r"]
    logits = tiny.reference_logits(prompt)[-1]
    assert logits.max() - logits[first] < 0.05 * (logits.max() - logits.min())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "gemma"}, "model_type"),
        ({"model_type": "gemma3"}, "model_type"),
        ({"model_type": "mistral", "layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "sliding_window"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, "hidden_activation"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -1}, "attn_logit_softcapping"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "llama", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ],
)
def test_variant_that_is_not_implemented_is_refused_by_name(changes: dict[str, object], key: str) -> None:
    with pytest.raises(UnsupportedCheckpointError) as caught:
        LlamaConfig.parse(BASE | changes)
    assert caught.value.param == key


def test_published_layouts_of_gemma_are_understood() -> None:
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    config = LlamaConfig.parse(BASE | old | {"model_type": "gemma3_text", "sliding_window": 16})
    assert (config.rope.kind, config.rope.theta, config.rope.factor) == ("linear", 1e6, 8.0)
    assert config.traits.local_rope is not None and config.traits.local_rope.theta == 1e4
    assert config.tied_head
    assert config.traits.windowed_layers == {0, 1, 2, 3}
    second = LlamaConfig.parse(BASE | {"model_type": "gemma2", "sliding_window": 16})
    assert (second.traits.score_cap, second.traits.logit_cap) == (50.0, 30.0)
    assert second.traits.windowed_layers == {0, 2}
