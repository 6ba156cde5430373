# SPDX-License-Identifier: Apache-2.0
"""`application/vnd.sllm.resume`: a request whose answer was begun elsewhere, as `POST /infer` takes it.

    message = length head body          length = bytes of `head`, 4 bytes, little-endian
    head    = msgpack [version, seq, prompt digest, prompt ids, choices]
    choice  = [token ids, num characters, finish]

`body` is the client's, untouched. A choice's ids and characters are those that its reader has: what was sampled
beyond them is sampled again. Strings, ids and counts are bounded, and checked before anything is done with them.
Pure; knows no tokenizer.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from serverlessllm.errors import WireError
from serverlessllm.types import AnswerFinish
from serverlessllm.wire.field_bounds import MAX_CHOICES, MAX_TOKENS_BOUND

CONTENT_TYPE: Final = "application/vnd.sllm.resume"
VERSION: Final = 1
MAX_HEAD_BYTES: Final = 32 << 20
DIGEST_DIGITS: Final = 32
_MAX_ID: Final = (1 << 32) - 1
_LENGTH: Final = struct.Struct("<I")


class ResumedChoice(msgspec.Struct, frozen=True, array_like=True):
    """What a reader has of one choice: ids, characters of text and of calls' arguments, and why it ended."""

    token_ids: list[int] = []
    num_characters: int = 0
    finish: AnswerFinish | None = None


class ResumeHead(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a reader has of a stream. `seq` is that of its last event.

    `prompt_digest` (as the agent's first comment tells it) or `prompt_ids` or both say what was answered; ids are
    used as they are, a digest must be that of the prompt as the next agent renders it.
    """

    version: int = VERSION
    seq: int
    prompt_digest: str = ""
    prompt_ids: list[int] = []
    choices: list[ResumedChoice]

    @property
    def num_tokens(self) -> int:
        """Ids that were delivered, over all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(ResumeHead)


def encode_resume(head: ResumeHead, body: bytes) -> bytes:
    """The message. Raises WireError for a head that `decode_resume` would not take."""
    _check(head)
    packed = _encoder.encode(head)
    if len(packed) > MAX_HEAD_BYTES:
        raise WireError(f"a resume head of {len(packed)} bytes exceeds {MAX_HEAD_BYTES}")
    return b"".join((_LENGTH.pack(len(packed)), packed, body))


def decode_resume(message: bytes) -> tuple[ResumeHead, bytes]:
    """Head and body. Raises WireError that names what is wrong."""
    if len(message) < _LENGTH.size:
        raise WireError("resume: the message is shorter than its length field", source="agent")
    (length,) = _LENGTH.unpack_from(message)
    end = _LENGTH.size + length
    if length > MAX_HEAD_BYTES or end > len(message):
        raise WireError(
            f"resume: a head of {length} bytes in a message of {len(message)} bytes", source="agent"
        )
    try:
        head = _decoder.decode(memoryview(message)[_LENGTH.size : end])
    except msgspec.MsgspecError as error:
        raise WireError(f"resume: the head is malformed: {error}", source="agent") from error
    _check(head)
    return head, message[end:]


def _check(head: ResumeHead) -> None:
    """Bounds, and what must hold between the fields."""
    problem = _problem(head)
    if problem is not None:
        raise WireError(f"resume: {problem}", source="agent")


def _problem(head: ResumeHead) -> str | None:
    num_tokens = head.num_tokens
    digest = head.prompt_digest
    if head.version != VERSION:
        return f"version {head.version} is not {VERSION}"
    if not 1 <= len(head.choices) <= MAX_CHOICES:
        return f"{len(head.choices)} choices, not 1 to {MAX_CHOICES}"
    if num_tokens + len(head.prompt_ids) > MAX_TOKENS_BOUND:
        return f"more than {MAX_TOKENS_BOUND} ids"
    if not num_tokens <= head.seq <= MAX_TOKENS_BOUND:
        return f"seq {head.seq} with {num_tokens} ids delivered"
    if not digest and not head.prompt_ids:
        return "neither the prompt's digest nor its ids"
    if digest and (len(digest) != DIGEST_DIGITS or not set(digest) <= set("0123456789abcdef")):
        return f"prompt digest: not {DIGEST_DIGITS} hex digits"
    if not _are_ids(head.prompt_ids):
        return "prompt ids: one is no id"
    for index, choice in enumerate(head.choices):
        if not _are_ids(choice.token_ids):
            return f"choice {index}: one is no id"
        if choice.num_characters < 0:
            return f"choice {index}: {choice.num_characters} characters"
        if not choice.token_ids and (choice.num_characters or choice.finish is not None):
            return f"choice {index}: text or an end without ids"
    return None


def _are_ids(ids: list[int]) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) <= _MAX_ID)
