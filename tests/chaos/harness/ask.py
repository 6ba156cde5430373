# SPDX-License-Identifier: Apache-2.0
"""What one client asks, and the one right answer to it: the simulated engine's ids and their text.

Knows no HTTP and no cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from serverlessllm.engine.simulated.engine import expected_ids
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.openai import TextEndpoint
from support.model_dirs import VOCAB_SIZE

_WORDS: Final = ("answer", "robot", "city", "river", "story", "machine", "memory", "token", "block", "symbol")


@dataclass(frozen=True)
class Ask:
    """One request of a client, streamed and with usage."""

    number: int
    model: str
    endpoint: TextEndpoint
    text: str
    seed: int
    num_choices: int
    max_tokens: int

    @property
    def path(self) -> str:
        """Where it goes."""
        return "/v1/chat/completions" if self.endpoint == "chat" else "/v1/completions"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation of a chat."""
        return [{"role": "user", "content": self.text}]

    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        prompt = {"messages": self.messages} if self.endpoint == "chat" else {"prompt": self.text}
        return prompt | {
            "model": self.model,
            "seed": self.seed,
            "n": self.num_choices,
            "max_tokens": self.max_tokens,
            "temperature": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Doubt(Protocol):
    """Of a real engine: the right answer is that of a calm run, but for near ties."""

    def is_near_tie(self, choice: int, before: Sequence[int], got: int, wanted: int) -> bool:
        """Whether `got` may come for `wanted` after the ids `before` of a choice."""

    def read(self, token_ids: Sequence[int]) -> str:
        """Their text."""


@dataclass(frozen=True)
class Right:
    """The right answer: ids and text of every choice, which all end by length. It is the only one without `doubt`."""

    num_prompt_tokens: int
    ids: Sequence[Sequence[int]]
    texts: Sequence[str]
    doubt: Doubt | None = None


def draw_ask(pick: Random, number: int, models: Sequence[str], tokens: tuple[int, int]) -> Ask:
    """Some request for that many tokens, at least and below."""
    return Ask(
        number=number,
        model=pick.choice(models),
        endpoint=pick.choice(("chat", "completions")),
        text=" ".join(pick.choices(_WORDS, k=pick.randrange(3, 40))),
        seed=pick.randrange(1 << 31),
        num_choices=2 if pick.random() < 0.15 else 1,
        max_tokens=pick.randrange(*tokens),
    )


def right_answer(ask: Ask, text: TextModel) -> Right:
    """What the simulated engine answers, as `text` reads."""
    prompt_ids = prompt_ids_of(ask, text)
    ids = [
        expected_ids(prompt_ids, ask.seed, choice, ask.max_tokens, vocab_size=VOCAB_SIZE)
        for choice in range(ask.num_choices)
    ]
    return Right(len(prompt_ids), ids, [read(text, choice_ids) for choice_ids in ids])


def prompt_ids_of(ask: Ask, text: TextModel) -> list[int]:
    """What the engine is given."""
    return text.encode_chat(ask.messages) if ask.endpoint == "chat" else text.encode(ask.text)


def read(text: TextModel, token_ids: Sequence[int]) -> str:
    """The text of a whole answer."""
    detokenizer = text.detokenizer()
    return "".join(detokenizer.push(token_id) for token_id in token_ids) + detokenizer.flush()
