# SPDX-License-Identifier: Apache-2.0
"""What one client asks, and the one right answer to it: the simulated engine's ids and their text.

Knows no HTTP and no cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

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
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(frozen=True)
class Right:
    """The right answer: ids and text of every choice; all of them end by length."""

    num_prompt_tokens: int
    ids: Sequence[Sequence[int]]
    texts: Sequence[str]


def draw_ask(pick: Random, number: int, models: Sequence[str]) -> Ask:
    """Some request."""
    return Ask(
        number=number,
        model=pick.choice(models),
        endpoint=pick.choice(("chat", "completions")),
        text=" ".join(pick.choices(_WORDS, k=pick.randrange(3, 40))),
        seed=pick.randrange(1 << 31),
        num_choices=2 if pick.random() < 0.15 else 1,
        max_tokens=pick.randrange(20, 90),
    )


def right_answer(ask: Ask, text: TextModel) -> Right:
    """What the simulated engine answers, as `text` reads."""
    prompt_ids = text.encode_chat(ask.messages) if ask.endpoint == "chat" else text.encode(ask.text)
    ids = [
        expected_ids(prompt_ids, ask.seed, choice, ask.max_tokens, vocab_size=VOCAB_SIZE)
        for choice in range(ask.num_choices)
    ]
    return Right(len(prompt_ids), ids, [_read(text, choice_ids) for choice_ids in ids])


def _read(text: TextModel, token_ids: Sequence[int]) -> str:
    detokenizer = text.detokenizer()
    return "".join(detokenizer.push(token_id) for token_id in token_ids) + detokenizer.flush()
