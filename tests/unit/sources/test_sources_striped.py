# SPDX-License-Identifier: Apache-2.0
"""Striped reads: the same bytes as unstriped ones, errors and interrupts included."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import UnreachableError
from serverlessllm.sources.striped import StripedSource
from serverlessllm.types import Tier

SIZE = 1 << 20
DATA = bytes(i * 7 % 251 for i in range(SIZE))


class Recorded:
    """An object in memory; remembers who read, and what was interrupted."""

    name = "recorded"
    tier: Tier = "remote"
    size = SIZE
    identity = "x"

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.readers: set[int] = set()
        self.interrupted: list[int] = []
        self.allowed: list[int] = []
        self.fails_at = fails_at
        self.is_closed = False

    def read_into(self, offset: int, view: memoryview) -> int:
        self.readers.add(threading.get_ident())
        if self.fails_at is not None and offset <= self.fails_at < offset + len(view):
            raise UnreachableError("gone", source="agent")
        count = max(0, min(len(view), SIZE - offset))
        view[:count] = DATA[offset : offset + count]
        return count

    def interrupt(self, thread_id: int) -> None:
        self.interrupted.append(thread_id)

    def allow(self, thread_id: int) -> None:
        self.allowed.append(thread_id)

    def close(self) -> None:
        self.is_closed = True


@given(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(2, 5))
def test_striped_read_gives_what_a_plain_one_gives(offset: int, nbytes: int, num_stripes: int) -> None:
    plain, target = bytearray(nbytes), bytearray(nbytes)
    expected = Recorded().read_into(offset, memoryview(plain))
    striped = StripedSource(Recorded(), num_stripes)
    assert striped.read_into(offset, memoryview(target)) == expected
    assert target[:expected] == plain[:expected]
    striped.close()


def test_large_read_is_shared_by_the_crew() -> None:
    source = Recorded()
    striped = StripedSource(source, 4)
    striped.read_into(0, memoryview(bytearray(SIZE)))
    assert len(source.readers) == 4
    striped.close()
    assert source.is_closed


@pytest.mark.parametrize("fails_at", [0, SIZE // 2, SIZE - 1])
def test_error_of_any_stripe_is_the_reads_own(fails_at: int) -> None:
    striped = StripedSource(Recorded(fails_at=fails_at), 4)
    with pytest.raises(UnreachableError):
        striped.read_into(0, memoryview(bytearray(SIZE)))
    striped.close()


def test_interrupt_reaches_the_whole_crew_of_a_reader() -> None:
    source = Recorded()
    striped = StripedSource(source, 3)
    striped.read_into(0, memoryview(bytearray(SIZE)))
    me = threading.get_ident()
    striped.interrupt(me)
    striped.allow(me)
    assert set(source.interrupted) == set(source.allowed) == source.readers
    striped.close()


def test_one_stripe_is_refused() -> None:
    with pytest.raises(ValueError, match="split nothing"):
        StripedSource(Recorded(), 1)
