# SPDX-License-Identifier: Apache-2.0
"""Names for the beginnings of prompts, the same in the orchestrator and in the agent, without a tokenizer.

A request has a canonical text: of a chat, tools first, then each message's role and content; of a completion, the
prompt. Its bytes are cut into pieces of `CHUNK_BYTES` (a partial last piece is dropped), and each piece's name is
chained to the one before:

    name_i = xxh3_64(piece_i, seed = name_(i-1))                 name_(-1) = xxh3_64(salt as UTF-8)

So a name stands for all text up to its piece's end, and for the tenant whose salt it is. It is a hint for scoring:
what is reused is decided by the engine, by a cryptographic hash of ids. Golden values are in the tests. Pure.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from serverlessllm.wire.messages import Message
from serverlessllm.wire.openai import ChatRequest, CompletionRequest

CHUNK_BYTES: Final = 512
ID_BYTES: Final = 4
"""Of a prompt given as ids, each a little-endian u32."""
_PART: Final = "\x1e"
_FIELD: Final = "\x1f"
_PLAIN_FIELDS: Final = ("role", "content", "name")


class Part(NamedTuple):
    """A stretch of canonical text: `head` is framing, `content` what a template copies into the prompt."""

    head: str
    content: str

    def encode(self) -> bytes:
        """Its bytes; a lone surrogate counts like a character."""
        return (self.head + self.content).encode("utf-8", "surrogatepass")


def parts_of(request: ChatRequest | CompletionRequest) -> list[Part]:
    """The canonical text in parts; none for a prompt of ids."""
    if isinstance(request, ChatRequest):
        tools = [Part(f"{_PART}tools{_FIELD}", _json(request.tools))] if request.tools else []
        return tools + [_message_part(message) for message in request.messages]
    prompt = request.single_prompt
    return [Part("", prompt)] if isinstance(prompt, str) else []


def answer_part(text: str) -> Part:
    """What the next turn of a chat has for the answer `text`."""
    return _message_part(Message(role="assistant", content=text))


def canonical_text(request: ChatRequest | CompletionRequest) -> bytes:
    """The bytes whose pieces are named."""
    if isinstance(request, CompletionRequest) and isinstance(prompt := request.single_prompt, list):
        return struct.pack(f"<{len(prompt)}I", *prompt)
    return b"".join([part.encode() for part in parts_of(request)])


def chunk_names(text: bytes, salt: str) -> list[int]:
    """The names of all whole pieces, in order; each an unsigned 64-bit number. 10 to 15 µs for 32 KB."""
    name = xxh3_64_intdigest(salt.encode())
    names = []
    for end in range(CHUNK_BYTES, len(text) + 1, CHUNK_BYTES):
        name = xxh3_64_intdigest(text[end - CHUNK_BYTES : end], name)
        names.append(name)
    return names


def _message_part(message: Message) -> Part:
    named = "" if message.name is None else message.name
    fields = {
        field: value
        for field in message.__struct_fields__
        if field not in _PLAIN_FIELDS and (value := getattr(message, field)) is not None
    }
    head = f"{_PART}{message.role}{_FIELD}{named}{_FIELD}{_json(fields) if fields else ''}{_FIELD}"
    return Part(head, message.text)


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
