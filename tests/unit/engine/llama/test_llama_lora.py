# SPDX-License-Identifier: Apache-2.0
"""Adapters against a model with their matrices added in: alone, batched, in pieces, beside the base, cached."""

from __future__ import annotations

import msgspec
import pytest
import torch

from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.errors import CheckpointFormatError, EngineError, UnsupportedCheckpointError
from serverlessllm.wire.worker import Generate
from support.peft_adapter import adapter_weights, merged, random_adapter
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request, run_all

FAMILIES = {"llama": {}, "qwen3": {}, "gemma2": {"sliding_window": 40, "tie_word_embeddings": True}}
TARGETS = {"all": None, "attention": ("q_proj", "v_proj")}


def shapes_of(tiny: TinyModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in tiny.reference.named_parameters()}


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return build_tiny(request.param, FAMILIES[request.param])


def adapted(tiny: TinyModel, name: str, *, seed: int = 0) -> TinyModel:
    """The reference with the adapter in its matrices."""
    return TinyModel(merged(tiny.reference, adapter_of(tiny, seed=seed)), tiny.weights)


def adapter_of(tiny: TinyModel, *, seed: int = 0) -> dict[str, torch.Tensor]:
    return random_adapter(shapes_of(tiny), seed=seed)


def lora_engine(tiny: TinyModel) -> LlamaEngine:
    engine = attached_engine(tiny.weights)
    for seed, name in enumerate(("a", "b")):
        engine.load_adapter(name, adapter_weights(adapter_of(tiny, seed=seed)))
    return engine


def ask(name: str, prompt: list[int], adapter: str, max_tokens: int = 8) -> Generate:
    return msgspec.structs.replace(request(name, prompt, max_tokens), adapter=adapter)


def assert_greedy(reference: TinyModel, prompt: list[int], generated: list[int]) -> None:
    ids = list(prompt)
    for token_id in generated:
        logits = reference.reference_logits(ids)[-1]
        assert logits.max() - logits[token_id] < 1e-3
        ids.append(token_id)


def test_logits_equal_those_of_the_merged_model(tiny: TinyModel) -> None:
    engine = lora_engine(tiny)
    engine.add(msgspec.structs.replace(ask("r", [5, 6, 7, 8], "a", 1), logprobs=5))
    (event,) = run_all(engine)["r"]
    expected = adapted(tiny, "a").reference_logits([5, 6, 7, 8])[-1].log_softmax(-1)
    assert event.logprobs is not None
    for token_id, logprob in zip(event.logprobs.top_ids, event.logprobs.top_logprobs, strict=True):
        assert logprob == pytest.approx(float(expected[token_id]), abs=1e-4)


def test_two_adapters_and_the_base_share_a_batch(tiny: TinyModel) -> None:
    prompts = {"a": [3, 4, 5], "": [3, 4, 5], "b": [3, 4, 5]}
    found = generate_ids(lora_engine(tiny), *(ask(f"r{name}", ids, name) for name, ids in prompts.items()))
    assert_greedy(adapted(tiny, "a"), prompts["a"], found["ra"])
    assert_greedy(adapted(tiny, "b", seed=1), prompts["b"], found["rb"])
    assert_greedy(tiny, prompts[""], found["r"])
    assert len({tuple(ids) for ids in found.values()}) == 3


def test_base_gives_equal_ids_with_and_without_adapters_beside_it(tiny: TinyModel) -> None:
    alone = generate_ids(attached_engine(tiny.weights), request("r", [9, 8, 7], 20))["r"]
    assert (
        generate_ids(lora_engine(tiny), ask("r", [9, 8, 7], "", 20), ask("x", [1, 2], "a", 20))["r"] == alone
    )


def test_prompt_in_pieces_and_cached_prefixes_keep_adapters_apart(tiny: TinyModel) -> None:
    generator = torch.Generator().manual_seed(4)
    prompt: list[int] = torch.randint(211, (300,), generator=generator).tolist()
    engine = lora_engine(tiny)
    engine.add(request("stream", [3, 4], 30))
    engine.step()
    first = generate_ids(engine, ask("first", prompt, "a", 4))["first"]
    assert_greedy(adapted(tiny, "a"), prompt, first)
    others = {"a": adapted(tiny, "a"), "b": adapted(tiny, "b", seed=1), "": tiny}
    for (name, reference), num_cached in zip(others.items(), (288, 0, 0), strict=True):
        engine.add(ask(f"again{name}", prompt, name, 4))
        events = run_all(engine)[f"again{name}"]
        assert events[0].cached_tokens == num_cached
        assert_greedy(reference, prompt, [event.token_id for event in events])


def test_adapter_that_does_not_fit_is_refused(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    wrong = {name: torch.zeros(4, 7) for name in adapter_of(tiny)}
    with pytest.raises(CheckpointFormatError):
        engine.load_adapter("wrong", adapter_weights(wrong))
    foreign = {"model.embed_tokens.lora_A.weight": torch.zeros(4, 7)}
    with pytest.raises(UnsupportedCheckpointError, match="embed_tokens"):
        engine.load_adapter("foreign", adapter_weights(foreign))
    with pytest.raises(UnsupportedCheckpointError, match="no LoRA"):
        engine.load_adapter("base", tiny.weights)
    with pytest.raises(EngineError, match="not loaded"):
        engine.add(ask("r", [1], "wrong"))
