# SPDX-License-Identifier: Apache-2.0
"""`TextModel` and its cache, over the tiny tokenizer."""

from __future__ import annotations

import asyncio
import json

import pytest
from tokenizers import Tokenizer

from serverlessllm.errors import CheckpointFormatError, InvalidRequestError, UnsupportedCheckpointError
from serverlessllm.text.tokenizer import TextCache, TextModel
from support.memory_source import MemorySource
from support.tiny_tokenizer import END_OF_TEXT_ID, IM_END_ID, IM_START_ID, tiny_tokenizer_files

USER = [{"role": "user", "content": "What is the capital of France? 🙂"}]


def decode(ids: list[int]) -> str:
    tokenizer = Tokenizer.from_buffer(tiny_tokenizer_files()["tokenizer.json"])
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def test_conversation_is_encoded_with_the_template_s_special_tokens() -> None:
    ids = TextModel.load(MemorySource()).encode_chat(USER)
    assert ids.count(IM_START_ID) == 2 and ids.count(IM_END_ID) == 1
    assert decode(ids) == f"<|im_start|>user\n{USER[0]['content']}<|im_end|>\n<|im_start|>assistant\n"


def test_answer_comes_back_as_it_was_encoded() -> None:
    model = TextModel.load(MemorySource())
    detokenizer = model.detokenizer(model.encode_chat(USER))
    answer = model.encode("Paris, a city 🚀")
    assert "".join(map(detokenizer.push, answer)) + detokenizer.flush() == "Paris, a city 🚀"


def test_stop_ids_are_the_union_of_all_configs() -> None:
    source = MemorySource(
        generation_config={"eos_token_id": 300}, config={"eos_token_id": [END_OF_TEXT_ID, 300]}
    )
    assert TextModel.load(source).stop_token_ids == (END_OF_TEXT_ID, IM_END_ID, 300)


def test_eos_token_may_be_an_object() -> None:
    source = MemorySource(
        generation_config=None, tokenizer_config={"eos_token": {"content": "<|im_end|>", "special": True}}
    )
    assert TextModel.load(source).stop_token_ids == (IM_END_ID,)


@pytest.mark.parametrize("value", ["2", [True], -1, {"id": 2}])
def test_malformed_eos_names_the_file(value: object) -> None:
    with pytest.raises(CheckpointFormatError) as caught:
        TextModel.load(MemorySource(generation_config={"eos_token_id": value}))
    assert caught.value.param == "generation_config.json:eos_token_id"


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_config", "generation_config"])
@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1]", b"[" * 100_000])
def test_file_that_is_not_json_is_named(name: str, data: object) -> None:
    with pytest.raises(CheckpointFormatError) as caught:
        TextModel.load(MemorySource("0" * 32, **{name: data}))
    assert caught.value.param == f"{name}.json"


def test_missing_tokenizer_says_what_to_do() -> None:
    with pytest.raises(UnsupportedCheckpointError, match="convert again"):
        TextModel.load(MemorySource(tokenizer=None))


def test_truncation_and_padding_of_the_file_are_turned_off() -> None:
    document = json.loads(tiny_tokenizer_files()["tokenizer.json"])
    document["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    document["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    text = "one two three four five six"
    assert decode(TextModel.load(MemorySource(tokenizer=document)).encode(text)) == text


def test_lone_surrogate_is_refused_naming_the_field() -> None:
    model = TextModel.load(MemorySource())
    with pytest.raises(InvalidRequestError) as caught:
        model.encode("a\ud800")
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequestError) as caught:
        model.encode_chat([{"role": "user", "content": "a\ud800"}])
    assert caught.value.param == "messages"


async def test_long_and_short_prompts_encode_alike_off_the_loop() -> None:
    model = TextModel.load(MemorySource())
    for text in ("short", "The capital of France. " * 1000):
        assert (await model.align_off_loop(text)).ids == model.encode(text)
    assert (await model.align_chat_off_loop(USER)).ids == model.encode_chat(USER)


async def test_concurrent_calls_parse_once() -> None:
    source, cache = MemorySource(), TextCache(2)
    models = await asyncio.gather(*(cache.get(source) for _ in range(20)))
    assert len({id(model) for model in models}) == 1
    assert source.num_tokenizer_reads == 1


async def test_least_recently_used_model_leaves_first() -> None:
    cache = TextCache(2)
    first, second, third = (MemorySource(revision=digit * 32) for digit in "123")
    for source in (first, second, first, third, first, second):
        await cache.get(source)
    assert [source.num_tokenizer_reads for source in (first, second, third)] == [1, 2, 1]


async def test_cancelled_caller_leaves_the_parse_to_the_others() -> None:
    source, cache = MemorySource(), TextCache(2)
    leaving, staying = (asyncio.create_task(cache.get(source)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance(await staying, TextModel)
    assert leaving.cancelled() and source.num_tokenizer_reads == 1


async def test_failed_parse_is_tried_again() -> None:
    source, cache = MemorySource(tokenizer=b"{"), TextCache(2)
    for _ in range(2):
        with pytest.raises(CheckpointFormatError):
            await cache.get(source)
    assert source.num_tokenizer_reads == 2


async def test_revisions_with_the_same_tokenizer_share_one_parse() -> None:
    cache = TextCache(4)
    first = await cache.get(MemorySource("1" * 32))
    second = await cache.get(MemorySource("2" * 32, generation_config={"eos_token_id": 300}))
    assert second is not first
    assert second.vocab_size == first.vocab_size
    assert second._tokenizer is first._tokenizer
    assert second.stop_token_ids != first.stop_token_ids
