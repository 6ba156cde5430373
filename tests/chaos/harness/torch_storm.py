# SPDX-License-Identifier: Apache-2.0
"""A storm over the real engine: a tiny seeded Llama, whose right answers are those of calm weather.

Another id than in calm weather is right only where the margin between the two, noise included, is < NEAR_TIE in
float32 by another implementation of the model; such near ties are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import torch
from transformers import LlamaForCausalLM

from chaos.harness.ask import Ask, Right, prompt_ids_of, read
from chaos.harness.parts import ServerPart
from chaos.harness.storm import Storm
from serverlessllm.engine.llama.sampling.noise import draw_bits, draw_key, gumbel, token_counters
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.types import EngineKind
from support.model_dirs import VOCAB_SIZE, write_tiny_llama

NEAR_TIE: Final = 1e-3
PATIENCE_S: Final = 60.0


class Model:
    """The reference: the checkpoint in transformers, read when a doubt arises."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @cached_property
    def _model(self) -> torch.nn.Module:
        model: torch.nn.Module = LlamaForCausalLM.from_pretrained(self._directory, dtype=torch.float32)
        return model

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Of the id that comes next."""
        row = self._model(torch.tensor([list(token_ids)])).logits[0, -1]
        return np.asarray(row.numpy(), np.float64)


@dataclass(frozen=True)
class LlamaDoubt:
    """See `Doubt`."""

    ask: Ask
    text: TextModel
    model: Model

    def is_near_tie(self, choice: int, before: Sequence[int], got: int, wanted: int) -> bool:
        """By logits and noise of that draw."""
        ids = [*prompt_ids_of(self.ask, self.text), *before]
        scores = self.model.logits(ids)
        key = draw_key(self.ask.seed, choice, len(ids))
        scores += gumbel(draw_bits(key, token_counters(np.arange(VOCAB_SIZE))))
        return bool(abs(scores[wanted] - scores[got]) < NEAR_TIE)

    def read(self, token_ids: Sequence[int]) -> str:
        """As the tokenizer reads them."""
        return read(self.text, token_ids)


@dataclass
class TorchStorm(Storm):
    """`run` once."""

    engine: EngineKind = "torch"
    options: Mapping[str, float] = field(default_factory=dict)

    def agent_flags(self) -> dict[str, str]:
        """In float32, as the oracle."""
        return {**super().agent_flags(), "engine-dtype": "float32", "engine-kv-cache-bytes": "64MiB"}

    def write_model(self, number: int) -> Path:
        """A few hundred kilobytes of seeded weights."""
        return write_tiny_llama(self.home / f"m{number}", seed=number)

    async def right_answers(self, asks: Sequence[Ask], front: ServerPart, text: TextModel) -> list[Right]:
        """Ask each once, alone."""
        async with httpx.AsyncClient(base_url=front.url, timeout=PATIENCE_S) as http:
            return [await self._learn(http, ask, text) for ask in asks]

    async def _learn(self, http: httpx.AsyncClient, ask: Ask, text: TextModel) -> Right:
        body = {name: value for name, value in ask.body().items() if name not in ("stream", "stream_options")}
        answer = (await http.post(ask.path, json=body)).raise_for_status().json()
        ids = [choice["token_ids"] for choice in answer["choices"]]
        model = Model(self.home / ask.model)
        texts = [read(text, choice_ids) for choice_ids in ids]
        return Right(answer["usage"]["prompt_tokens"], ids, texts, LlamaDoubt(ask, text, model))
