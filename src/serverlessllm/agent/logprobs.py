# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities in OpenAI's two shapes: a chat's list of tokens, and a completion's parallel lists. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from serverlessllm.wire.worker import TokenLogprobs


@dataclass(frozen=True, slots=True)
class SpelledToken:
    """A token's bytes, and the natural logarithm of its probability."""

    spelling: bytes
    logprob: float

    @property
    def text(self) -> str:
        """For a reader: U+FFFD stands for what is not a whole character."""
        return self.spelling.decode("utf-8", "replace")

    @property
    def name(self) -> str:
        """For the key of a map, where two halves of characters must differ: `bytes:\\xe4`."""
        try:
            return self.spelling.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.spelling)


@dataclass(frozen=True, slots=True)
class SpelledChoice:
    """A sampled token and the most likely ones in its place, falling."""

    token: SpelledToken
    top: tuple[SpelledToken, ...]


def spell(token_id: int, logprobs: TokenLogprobs, token_bytes: Callable[[int], bytes]) -> SpelledChoice:
    """An engine's ids as tokens."""
    pairs = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
    return SpelledChoice(
        SpelledToken(token_bytes(token_id), logprobs.logprob),
        tuple(SpelledToken(token_bytes(top_id), logprob) for top_id, logprob in pairs),
    )


class TopLogprob(msgspec.Struct, frozen=True):
    """One likely token of a chat."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True):
    """One sampled token of a chat."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """`choices[i].logprobs` of chats."""

    content: list[ChatToken]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """`choices[i].logprobs` of completions. `text_offset`: characters of the answer before each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def chat_logprobs(choices: Sequence[SpelledChoice]) -> ChatLogprobs:
    """As chats show them."""
    return ChatLogprobs([_chat_token(choice) for choice in choices])


def text_logprobs(choices: Sequence[SpelledChoice], offset: int) -> TextLogprobs:
    """As completions show them; `offset` characters came before."""
    offsets = []
    for choice in choices:
        offsets.append(offset)
        offset += len(choice.token.text)
    return TextLogprobs(
        tokens=[choice.token.name for choice in choices],
        token_logprobs=[choice.token.logprob for choice in choices],
        top_logprobs=[{token.name: token.logprob for token in choice.top} for choice in choices],
        text_offset=offsets,
    )


def num_characters(choices: Sequence[SpelledChoice]) -> int:
    """What the offsets of later tokens grow by."""
    return sum(len(choice.token.text) for choice in choices)


def _chat_token(choice: SpelledChoice) -> ChatToken:
    token = choice.token
    top = [TopLogprob(other.text, other.logprob, list(other.spelling)) for other in choice.top]
    return ChatToken(token.text, token.logprob, list(token.spelling), top)
