# SPDX-License-Identifier: Apache-2.0
"""The ids that the simulated engine answers with: a hash chain. Pure; knows no time, no requests.

    state(0)   = BLAKE3(seed as u64 · choice as u32 · number of prompt ids as u32 · prompt ids as u32 each)
    id(i)      = 3 + (first 8 bytes of state(i) as u64) mod (vocab_size − 3)
    state(i+1) = BLAKE3(state(i) · id(i) as u32)

All integers are little-endian and taken modulo their width. Each id depends on the prompt, the seed, the
choice and every id before it, so one lost, doubled or swapped id changes all that follow. Ids 0, 1 and 2,
where tokenizers keep their special ones, never occur.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import islice
from typing import Final

from blake3 import blake3

FIRST_ID: Final = 3
DEFAULT_VOCAB_SIZE: Final = 32_000
_HEAD: Final = struct.Struct("<QII")
_ID: Final = struct.Struct("<I")


class IdChain:
    """The chain of one choice: `peek()` is the id that comes next, `follow(id)` moves past one. O(1) each."""

    __slots__ = ("_state", "_vocab_size")

    def __init__(self, prompt_ids: Sequence[int], *, seed: int, choice: int, vocab_size: int) -> None:
        head = _HEAD.pack(seed % (1 << 64), choice % (1 << 32), len(prompt_ids))
        body = struct.pack(f"<{len(prompt_ids)}I", *(token_id % (1 << 32) for token_id in prompt_ids))
        self._state = blake3(head + body).digest()
        self._vocab_size = vocab_size

    def peek(self) -> int:
        """The next id, in [3, vocab_size)."""
        return FIRST_ID + int.from_bytes(self._state[:8], "little") % (self._vocab_size - FIRST_ID)

    def follow(self, token_id: int) -> None:
        """Make `token_id` part of the history, whether or not it is what `peek` said."""
        self._state = blake3(self._state + _ID.pack(token_id % (1 << 32))).digest()

    def __iter__(self) -> IdChain:
        return self

    def __next__(self) -> int:
        token_id = self.peek()
        self.follow(token_id)
        return token_id


def expected_ids(
    prompt_ids: Sequence[int], seed: int, choice: int, num: int, *, vocab_size: int = DEFAULT_VOCAB_SIZE
) -> list[int]:
    """The first `num` ids that a simulated engine answers with; stop ids do not cut it."""
    chain = IdChain(prompt_ids, seed=seed, choice=choice, vocab_size=vocab_size)
    return list(islice(chain, num))
