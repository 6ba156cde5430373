# SPDX-License-Identifier: Apache-2.0
"""Vectors of the engine against those of `transformers`' states: pooled, cut into pieces, beside generation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from serverlessllm.engine.llama.engine import LlamaEngine
from serverlessllm.errors import ContextLengthError, InvalidRequestError
from serverlessllm.types import Pooling
from serverlessllm.wire.worker import Embed
from support.tiny_llama import TinyModel, attached_engine, build_tiny, generate_ids, request, run_all

LENGTHS = (3, 1, 200, 40, 300, 7, 90, 90, 90)
"""Several to a pass, one that is cut, and a row of those that fit only in part."""


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return build_tiny("qwen2")


def texts(seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(211, (length,), generator=generator).tolist() for length in LENGTHS]


def expected(tiny: TinyModel, ids: list[int], pooling: Pooling) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        states = tiny.reference.model(torch.tensor([ids])).last_hidden_state[0]
    pooled: npt.NDArray[np.float32] = (states.mean(0) if pooling == "mean" else states[-1]).numpy()
    return pooled


def vectors_of(engine: LlamaEngine, request_id: str) -> list[npt.NDArray[np.float32]]:
    run_all(engine)
    found = {done.request_id: done.vectors for done in engine.take_embedded()}
    return [np.frombuffer(raw, "<f4") for raw in found[request_id]]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_equal_pooled_states_of_transformers(tiny: TinyModel, pooling: Pooling) -> None:
    engine = attached_engine(tiny.weights)
    engine.embed(Embed("e", texts(), pooling))
    for ids, vector in zip(texts(), vectors_of(engine, "e"), strict=True):
        assert np.abs(vector - expected(tiny, ids, pooling)).max() < 1e-4


def test_generation_beside_embeddings_gives_the_same_ids(tiny: TinyModel) -> None:
    alone = generate_ids(attached_engine(tiny.weights), request("r", [5, 6, 7], 30))
    engine = attached_engine(tiny.weights, max_num_seqs=1)
    engine.embed(Embed("e", texts(), "mean"))
    engine.embed(Embed("f", texts(seed=2), "last"))
    assert generate_ids(engine, request("r", [5, 6, 7], 30)) == alone
    assert [done.request_id for done in engine.take_embedded()] == ["e", "f"]
    assert not engine.has_work


def test_cancelled_request_is_not_answered(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights)
    engine.embed(Embed("left", texts(), "mean"))
    engine.embed(Embed("stayed", texts(), "mean"))
    engine.step()
    engine.cancel("left")
    run_all(engine)
    assert [done.request_id for done in engine.take_embedded()] == ["stayed"]


def test_inputs_that_cannot_be_computed_are_named(tiny: TinyModel) -> None:
    engine = attached_engine(tiny.weights, max_model_len_tokens=16)
    with pytest.raises(InvalidRequestError) as unknown:
        engine.embed(Embed("e", [[1], [211]], "mean"))
    with pytest.raises(ContextLengthError) as long:
        engine.embed(Embed("e", [[1] * 17], "mean"))
    assert (unknown.value.param, long.value.param) == ("input[1]", "input[0]")
    assert not engine.has_work


def test_checkpoint_of_a_bare_model_is_read(tiny: TinyModel) -> None:
    bare = build_tiny("qwen2", bare=True)
    engine = attached_engine(bare.weights)
    engine.embed(Embed("e", texts()[:2], "last"))
    for ids, vector in zip(texts(), vectors_of(engine, "e"), strict=False):
        assert np.abs(vector - expected(tiny, ids, "last")).max() < 1e-4
