# SPDX-License-Identifier: Apache-2.0
"""Agent ⇄ zygote: one msgpack map, tagged by `type`, per packet of a SEQPACKET socketpair.

Packets are whole or absent, so a forked child may answer on the same socket without a lock. The zygote sends
`Ready` once the engine is imported; then it answers commands in order and reports exits as they happen. It
kills its children and ends when the agent's end closes. Knows no engine.
"""

from __future__ import annotations

from typing import Final

import msgspec

from serverlessllm.errors import WireError

MAX_PACKET_BYTES: Final = 64 << 10


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Agent → zygote: start a worker that listens in `directory` and computes in `dtype` on `device`.

    `world_size` of them compute together: the first listens, and when one ends the zygote ends them all. A worker on
    a GPU page-locks the arena file `arena_path` while it waits; empty: there is none.
    """

    slot_id: str
    directory: str
    dtype: str
    num_threads: int
    device: str = "cpu"
    arena_path: str = ""
    world_size: int = 1


class ChooseDtype(msgspec.Struct, frozen=True, tag="choose_dtype"):
    """Agent → zygote: measure, in a child of its own, which compute dtype this machine runs faster."""

    slot_id: str
    num_threads: int


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """Agent → zygote: end this worker now; an unknown one is no error. `Exited` follows."""

    slot_id: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Zygote → agent, once: the engine is imported, forks are possible."""

    wire_version: int
    pid: int
    import_ms: float


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Zygote → agent: the worker exists and its socket accepts connections; it may not be primed yet.

    `pid` is rank 0's.
    """

    slot_id: str
    pid: int


class ForkFailed(msgspec.Struct, frozen=True, tag="fork_failed"):
    """Zygote → agent: no worker was made."""

    slot_id: str
    message: str


class DtypeChosen(msgspec.Struct, frozen=True, tag="dtype_chosen"):
    """Zygote's child → agent: the answer to `ChooseDtype`."""

    slot_id: str
    dtype: str
    measure_ms: float


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """Zygote → agent: a child was reaped; of a group, all of them were, and this is the first that ended.

    `exit_code` < 0 is the number of the signal that killed it.
    """

    slot_id: str
    pid: int
    exit_code: int


ToZygote = Fork | ChooseDtype | Kill
FromZygote = Ready | Forked | ForkFailed | DtypeChosen | Exited

_encoder: Final = msgspec.msgpack.Encoder()
_to_zygote: Final[msgspec.msgpack.Decoder[ToZygote]] = msgspec.msgpack.Decoder(ToZygote)
_from_zygote: Final[msgspec.msgpack.Decoder[FromZygote]] = msgspec.msgpack.Decoder(FromZygote)


def encode_packet(message: ToZygote | FromZygote) -> bytes:
    """The message as one packet."""
    return _encoder.encode(message)


def decode_to_zygote(packet: bytes) -> ToZygote:
    """Raises WireError for anything but a known command."""
    try:
        return _to_zygote.decode(packet)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed command to a zygote: {error}", source="agent") from error


def decode_from_zygote(packet: bytes) -> FromZygote:
    """Raises WireError for anything but a known report."""
    try:
        return _from_zygote.decode(packet)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed report from a zygote: {error}", source="engine") from error
