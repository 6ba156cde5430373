# SPDX-License-Identifier: Apache-2.0
"""How a running request moves: what orchestrators ask, what the source sends its destination, what readers are told.

    orchestrator → source        POST /migrate                    MigrateRequest → MigrateResult   (JSON)
                                 GET /infer                       RunList                          (JSON)
    source → destination         PUT /standby/{move}              round + the client's body → StandbyStatus
                                 PATCH /standby/{move}            round → StandbyStatus
                                 POST /standby/{move}/go          last round → StandbyStatus
                                 POST /standby/{move}/blocks      blocks → BlocksStored
                                 DELETE /standby/{move}           → StandbyStatus
    source → reader              ": moving {json}" LF             Moving, a comment of the stream

    round  = length head body          length = bytes of `head`, 4 bytes, little-endian; head = msgpack StandbyRound
    blocks = length head bytes…        head = msgpack [digests, nbytes of each]

All numbers are bounded and checked before anything is done with them. Pure.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec

from serverlessllm.errors import WireError
from serverlessllm.types import AnswerFinish
from serverlessllm.wire.field_bounds import MAX_CHOICES, MAX_TOKENS_BOUND
from serverlessllm.wire.sse import MOVING_COMMENT

CONTENT_TYPE: Final = "application/vnd.sllm.standby"
VERSION: Final = 1
MAX_HEAD_BYTES: Final = 32 << 20
MAX_BLOCKS_BYTES: Final = 64 << 20
_LENGTH: Final = struct.Struct("<I")
_MAX_ID: Final = (1 << 32) - 1
_DIGEST_BYTES: Final = 32

Mode = Literal["auto", "recompute", "copy"]
MoveReason = Literal["asked", "drain", "room"]
MoveOutcome = Literal["moved", "stayed", "ended", "unknown"]


class MigrateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /migrate`: move a running stream to another agent. The same request again gets the same result.

    `seed` tells the request from others of its id; 0 takes what runs under the name.
    """

    request_id: str
    tenant: str
    move_id: str
    dest_agent: str
    dest_address: str
    seed: int = 0
    reason: MoveReason = "asked"
    mode: Mode = "auto"


class MigrateResult(msgspec.Struct, frozen=True):
    """How a move ended. `state`: moved; stayed (`message` says why); ended (the answer was whole before);
    unknown (the destination did not answer: the reader decides).

    `prepare_ms`: beside the decoding. `handover_ms`: from the last id that the source gave out to the destination's
    word that it goes on.
    """

    move_id: str
    request_id: str
    state: MoveOutcome
    message: str = ""
    mode: Literal["recompute", "copy"] = "recompute"
    num_rounds: int = 0
    num_ids: int = 0
    num_tokens: int = 0
    cached_tokens: int = 0
    copied_bytes: int = 0
    prepare_ms: float = 0.0
    handover_ms: float = 0.0


class RunView(msgspec.Struct, frozen=True):
    """One running stream of an agent. `num_tokens` were generated; `is_read`: somebody is attached."""

    tenant: str
    request_id: str
    seed: int
    hop: int
    model: str
    revision: str
    prompt_tokens: int
    num_tokens: int
    is_read: bool


class RunList(msgspec.Struct, frozen=True):
    """`GET /infer`."""

    runs: list[RunView]


class Moving(msgspec.Struct, frozen=True):
    """What the source tells its reader when it gives out no more ids: attach there, from `seq`, as run `hop`."""

    agent_id: str
    address: str
    hop: int
    seq: int
    move_id: str


class StandbyChoice(msgspec.Struct, frozen=True, array_like=True):
    """One choice in a round: ids from the `start`-th on, all that were sampled by now.

    Of all ids `num_delivered` are with the reader, as `num_characters` of text and arguments; the others' text is
    held back.
    """

    start: int = 0
    token_ids: list[int] = []
    num_delivered: int = 0
    num_characters: int = 0
    finish: AnswerFinish | None = None


class StandbyRound(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a destination is sent. `prompt_ids`: with the first round only. `seq`: of the reader's last event."""

    version: int = VERSION
    seq: int = 0
    prompt_ids: list[int] = []
    choices: list[StandbyChoice]


class StandbyStatus(msgspec.Struct, frozen=True):
    """Where a prepared request is. `num_tokens` ids are known, `cached_tokens` of them were found, not computed;
    the last round took `computed_ms`. `block_tokens` 0: no blocks are taken.
    """

    move_id: str
    state: Literal["preparing", "live", "claimed", "aborted"]
    num_tokens: int = 0
    cached_tokens: int = 0
    computed_ms: float = 0.0
    block_tokens: int = 0
    dtype: str = ""


class BlocksStored(msgspec.Struct, frozen=True):
    """Of a copy: so many of the blocks are found at the destination from now on."""

    num_stored: int


class _BlocksHead(msgspec.Struct, frozen=True, array_like=True):
    digests: list[bytes]
    sizes: list[int]


_encoder: Final = msgspec.msgpack.Encoder()
_round: Final = msgspec.msgpack.Decoder(StandbyRound)
_blocks: Final = msgspec.msgpack.Decoder(_BlocksHead)
_moving: Final = msgspec.json.Decoder(Moving)


def encode_round(message: StandbyRound, body: bytes = b"") -> bytes:
    """Raises WireError for a round that `decode_round` would not take."""
    _check(message)
    head = _encoder.encode(message)
    if len(head) > MAX_HEAD_BYTES:
        raise WireError(f"a round of {len(head)} bytes exceeds {MAX_HEAD_BYTES}")
    return b"".join((_LENGTH.pack(len(head)), head, body))


def decode_round(message: bytes) -> tuple[StandbyRound, bytes]:
    """Round and body. Raises WireError that names what is wrong."""
    head, body = _split(message)
    try:
        decoded = _round.decode(head)
    except msgspec.MsgspecError as error:
        raise WireError(f"standby: the round is malformed: {error}", source="agent") from error
    _check(decoded)
    return decoded, body


def encode_blocks(digests: list[bytes], blocks: list[bytes]) -> bytes:
    """Blocks as one body."""
    head = _encoder.encode(_BlocksHead(digests, [len(block) for block in blocks]))
    return b"".join((_LENGTH.pack(len(head)), head, *blocks))


def decode_blocks(message: bytes) -> tuple[list[bytes], list[bytes]]:
    """Digests and blocks. Raises WireError when the lengths do not add up."""
    packed, rest = _split(message)
    try:
        head = _blocks.decode(packed)
    except msgspec.MsgspecError as error:
        raise WireError(f"standby: the head of the blocks is malformed: {error}", source="agent") from error
    if len(head.digests) != len(head.sizes) or any(size <= 0 for size in head.sizes):
        raise WireError("standby: not as many sizes as digests", source="agent")
    if any(len(digest) != _DIGEST_BYTES for digest in head.digests) or sum(head.sizes) != len(rest):
        raise WireError(
            f"standby: {len(rest)} bytes of blocks where {sum(head.sizes)} are told", source="agent"
        )
    blocks, start = [], 0
    for size in head.sizes:
        blocks.append(rest[start : start + size])
        start += size
    return head.digests, blocks


def moving_comment(moving: Moving) -> bytes:
    """The line that tells a reader."""
    return MOVING_COMMENT + msgspec.json.encode(moving) + b"\n"


def decode_moving(line: bytes) -> Moving | None:
    """What a comment line without its end says; None when it says something else. Raises WireError."""
    if not line.startswith(MOVING_COMMENT):
        return None
    try:
        return _moving.decode(line[len(MOVING_COMMENT) :])
    except msgspec.MsgspecError as error:
        raise WireError(f"a malformed moving comment: {error}", source="agent") from error


def _split(message: bytes) -> tuple[memoryview, bytes]:
    if len(message) < _LENGTH.size:
        raise WireError("standby: the message is shorter than its length field", source="agent")
    (length,) = _LENGTH.unpack_from(message)
    end = _LENGTH.size + length
    if length > MAX_HEAD_BYTES or end > len(message):
        raise WireError(
            f"standby: a head of {length} bytes in a message of {len(message)} bytes", source="agent"
        )
    return memoryview(message)[_LENGTH.size : end], message[end:]


def _check(message: StandbyRound) -> None:
    problem = _problem(message)
    if problem is not None:
        raise WireError(f"standby: {problem}", source="agent")


def _problem(message: StandbyRound) -> str | None:
    if message.version != VERSION:
        return f"version {message.version} is not {VERSION}"
    if not 1 <= len(message.choices) <= MAX_CHOICES:
        return f"{len(message.choices)} choices, not 1 to {MAX_CHOICES}"
    num_ids = sum(choice.start + len(choice.token_ids) for choice in message.choices)
    if num_ids + len(message.prompt_ids) > MAX_TOKENS_BOUND or not 0 <= message.seq <= MAX_TOKENS_BOUND:
        return f"more than {MAX_TOKENS_BOUND} ids"
    if not _are_ids(message.prompt_ids):
        return "prompt ids: one is no id"
    for index, choice in enumerate(message.choices):
        end = choice.start + len(choice.token_ids)
        if not _are_ids(choice.token_ids):
            return f"choice {index}: one is no id"
        if choice.start < 0 or choice.num_characters < 0 or not 0 <= choice.num_delivered <= end:
            return f"choice {index}: a count is out of range"
    return None


def _are_ids(ids: list[int]) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) <= _MAX_ID)
