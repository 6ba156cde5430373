# SPDX-License-Identifier: Apache-2.0
"""What models and requests have beyond Llama's, while weights arrive: adapters, windows, caps, texts as vectors."""

from __future__ import annotations

import msgspec
import pytest
import torch

from serverlessllm.wire.worker import Embed, Generate
from support.arriving import Arriving, in_shards
from support.peft_adapter import adapter_weights, merged, random_adapter
from support.tiny_llama import TinyModel, attached_engine, build_tiny, request

FAMILIES = {"llama": {}, "gemma2": {"sliding_window": 40, "tie_word_embeddings": True}}


@pytest.fixture(scope="module", params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return build_tiny(request.param, FAMILIES[request.param])


def prompt_of(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    ids: list[int] = torch.randint(211, (length,), generator=generator).tolist()
    return ids


def assert_logprobs(reference: TinyModel, prompt: list[int], arriving: Arriving, item: Generate) -> None:
    (event,) = [event for event in arriving.finish() if event.request_id == item.request_id]
    expected = reference.reference_logits(prompt)[-1].log_softmax(-1)
    assert event.logprobs is not None
    for token_id, logprob in zip(event.logprobs.top_ids, event.logprobs.top_logprobs, strict=True):
        assert logprob == pytest.approx(float(expected[token_id]), abs=1e-4)


@pytest.mark.parametrize("adapter", ["", "a"])
def test_first_id_has_the_probabilities_of_the_whole_model(tiny: TinyModel, adapter: str) -> None:
    arriving = Arriving(in_shards(tiny.weights))
    prompt, reference = prompt_of(90), tiny
    if adapter:
        shapes = {name: tuple(each.shape) for name, each in tiny.reference.named_parameters()}
        update = random_adapter(shapes, seed=0)
        arriving.engine.load_adapter(adapter, adapter_weights(update))
        reference = TinyModel(merged(tiny.reference, update), tiny.weights)
    item = msgspec.structs.replace(request("r", prompt, 1), adapter=adapter, logprobs=5)
    arriving.engine.add(item)
    arriving.grant()
    assert_logprobs(reference, prompt, arriving, item)


def test_texts_wait_for_the_whole_model_and_equal_its_vectors(tiny: TinyModel) -> None:
    ask = Embed("e", [prompt_of(7), prompt_of(70)], "mean")
    whole = attached_engine(tiny.weights)
    whole.embed(ask)
    while whole.has_work:
        whole.step()
    arriving = Arriving(in_shards(tiny.weights))
    arriving.engine.embed(ask)
    assert not arriving.engine.has_work
    arriving.finish()
    assert arriving.engine.take_embedded() == whole.take_embedded()
