# SPDX-License-Identifier: Apache-2.0
"""`/v1/embeddings` through the OpenAI package, against a running platform; vectors against transformers' states."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openai
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from support.model_dirs import write_simulated, write_tiny_llama
from support.platform import Platform

TEXTS = ["Once upon a time", "The capital of France is Paris.", "x"]
HIDDEN = 64


def declare_embeddings(directory: Path, pooling: str, *, normalizes: bool) -> Path:
    """Add the files that sentence-transformers writes."""
    stages = ["Transformer", "Pooling"] + ["Normalize"] * normalizes
    modules = [
        {"idx": index, "path": f"{index}_{stage}", "type": f"sentence_transformers.models.{stage}"}
        for index, stage in enumerate(stages)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": HIDDEN, f"pooling_mode_{pooling}": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def platform(home: Path) -> Iterator[Platform]:
    with Platform(home, engine_dtype="float32") as running:
        last = declare_embeddings(write_tiny_llama(home / "last"), "lasttoken", normalizes=True)
        mean = declare_embeddings(write_tiny_llama(home / "mean", seed=1), "mean_tokens", normalizes=False)
        simulated = declare_embeddings(write_simulated(home / "simulated"), "mean_tokens", normalizes=False)
        running.add("last", last, engine="torch")
        running.add("mean", mean, engine="torch")
        running.add("simulated", simulated)
        running.add("chat-only", write_tiny_llama(home / "chat"), engine="torch")
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def states(directory: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    return found


def ids_of(directory: Path, text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids
    return ids


def test_last_token_vectors_have_length_one_and_are_those_of_transformers(
    client: openai.OpenAI, home: Path
) -> None:
    answer = client.embeddings.create(model="last", input=TEXTS)
    assert [item.index for item in answer.data] == [0, 1, 2]
    for text, item in zip(TEXTS, answer.data, strict=True):
        wanted = states(home / "last", ids_of(home / "last", text))[-1]
        assert np.allclose(item.embedding, wanted / np.linalg.norm(wanted), atol=1e-5)
    num_tokens = sum(len(ids_of(home / "last", text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (num_tokens, num_tokens)


def test_mean_vectors_of_texts_and_of_ids_are_the_same(client: openai.OpenAI, home: Path) -> None:
    ids = [ids_of(home / "mean", text) for text in TEXTS]
    by_text = client.embeddings.create(model="mean", input=TEXTS, encoding_format="float")
    by_ids = client.embeddings.create(model="mean", input=ids, encoding_format="float")
    for each, text_item, ids_item in zip(ids, by_text.data, by_ids.data, strict=True):
        assert np.allclose(text_item.embedding, states(home / "mean", each).mean(0), atol=1e-5)
        assert np.allclose(text_item.embedding, ids_item.embedding, atol=1e-6)


def test_base64_and_floats_say_the_same(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="last", input="Hello", encoding_format="float").data[0].embedding
    encoded = client.embeddings.create(model="last", input="Hello", encoding_format="base64").data[0]
    spelled: object = encoded.embedding
    assert isinstance(spelled, str)
    assert np.array_equal(np.frombuffer(base64.b64decode(spelled), "<f4"), np.asarray(floats, np.float32))


def test_fewer_dimensions_are_the_first_ones_scaled_again(client: openai.OpenAI) -> None:
    whole = np.asarray(client.embeddings.create(model="last", input="Hello").data[0].embedding)
    cut = np.asarray(client.embeddings.create(model="last", input="Hello", dimensions=8).data[0].embedding)
    assert np.allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="last", input="Hello", dimensions=HIDDEN + 1)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize("model", ["chat-only", "simulated"])
def test_model_that_makes_none_says_so(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=model, input="Hello")
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_parameter")


def test_input_beyond_the_context_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="last", input=["short", "word " * 3000])
    assert (caught.value.param, caught.value.code) == ("input[1]", "context_length_exceeded")
