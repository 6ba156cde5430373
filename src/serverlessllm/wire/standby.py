# SPDX-License-Identifier: Apache-2.0
"""Agent ⇄ engine worker, about requests that move: prepared here while they still run elsewhere.

A `Generate` with `is_standby` is computed up to its newest id and then waits; `Extend` brings the ids that were
sampled meanwhile, `Standing` says that all of them are computed, and the last `Extend` starts the sampling. Blocks of
keys and values travel as `TakeBlocks` → `BlocksTaken` at the source, `PutBlocks` → `BlocksPut` at the destination.
"""

from __future__ import annotations

from typing import Final

import msgspec

MAX_COPY_BYTES: Final = 8 << 20
"""What one message carries of blocks, at most; or one block, where that is larger."""


class Extend(msgspec.Struct, frozen=True, tag="extend"):
    """Agent → worker: a standby choice got `token_ids` elsewhere. `is_last`: from here on it is sampled here."""

    request_id: str
    choice: int
    token_ids: list[int]
    is_last: bool = False


class Standing(msgspec.Struct, frozen=True, tag="standing"):
    """Worker → agent: a standby choice has computed all of its `num_tokens` ids but the newest, prompt included.

    `cached_tokens` of them were found, not computed.
    """

    request_id: str
    choice: int
    num_tokens: int
    cached_tokens: int


class TakeBlocks(msgspec.Struct, frozen=True, tag="take_blocks"):
    """Agent → worker: the full blocks of a running choice, from the `first`-th on. Answered by `BlocksTaken`."""

    request_id: str
    choice: int
    first: int


class BlocksTaken(msgspec.Struct, frozen=True, tag="blocks_taken"):
    """Worker → agent: names and bytes of consecutive blocks; as many as `MAX_COPY_BYTES` allow, perhaps none.

    `num_left` more are full now.
    """

    request_id: str
    digests: list[bytes]
    blocks: list[bytes]
    num_left: int = 0


class PutBlocks(msgspec.Struct, frozen=True, tag="put_blocks"):
    """Agent → worker: blocks that another worker of the same revision and dtype computed. Answered by `BlocksPut`."""

    request_id: str
    digests: list[bytes]
    blocks: list[bytes]


class BlocksPut(msgspec.Struct, frozen=True, tag="blocks_put"):
    """Worker → agent: so many leading blocks of the `PutBlocks` are found from now on; fewer where no room was."""

    request_id: str
    num_stored: int
