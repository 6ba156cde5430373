# SPDX-License-Identifier: Apache-2.0
"""What sentence-transformers files say, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.text.embedding_recipe import EmbeddingRecipe
from support.memory_source import MemorySource

LAST = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True}
MEAN = {"pooling_mode_mean_tokens": True}


def modules(*kinds: str) -> bytes:
    return json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]).encode()


def load(kinds: tuple[str, ...], pooling: dict[str, Any], **config: Any) -> EmbeddingRecipe:
    return EmbeddingRecipe.load(
        MemorySource(modules=modules(*kinds), pooling_config=pooling, config_sentence_transformers=config)
    )


def test_declared_recipe_is_followed() -> None:
    assert load(("Transformer", "Pooling", "Normalize"), LAST) == EmbeddingRecipe("", "last", True, "")
    assert load(("Transformer", "Pooling"), MEAN) == EmbeddingRecipe("", "mean", False, "")
    assert load(("Transformer", "Pooling"), {"pooling_mode": "lasttoken"}).pooling == "last"


def test_default_prompt_goes_before_texts() -> None:
    prompts = {"query": "Query: ", "document": ""}
    stages = ("Transformer", "Pooling")
    assert load(stages, MEAN, prompts=prompts, default_prompt_name="query").prompt == "Query: "
    assert load(stages, MEAN, prompts=prompts, default_prompt_name=None).prompt == ""


@pytest.mark.parametrize(
    ("kinds", "pooling", "problem"),
    [
        (("Transformer", "Pooling", "Dense"), MEAN, "Dense"),
        (("Transformer",), MEAN, "Transformer"),
        ((), MEAN, "nothing"),
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True}, "cls_token"),
        (("Transformer", "Pooling"), LAST | {"pooling_mode_mean_tokens": True}, "and"),
        (("Transformer", "Pooling"), {}, "not declared"),
    ],
)
def test_recipe_that_cannot_be_followed_says_why(
    kinds: tuple[str, ...], pooling: dict[str, Any], problem: str
) -> None:
    assert problem in load(kinds, pooling).problem


def test_model_without_declaration_has_none() -> None:
    assert "modules.json" in EmbeddingRecipe.load(MemorySource()).problem
    assert EmbeddingRecipe.load(MemorySource(modules=b"not json")).problem
