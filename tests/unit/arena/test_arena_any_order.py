# SPDX-License-Identifier: Apache-2.0
"""The arena under any order of calls: no extent is lost or given twice, no byte of a region changes, pins hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.arena.pin import Pin
from serverlessllm.arena.region import Region
from serverlessllm.config import ArenaConfig
from serverlessllm.errors import CapacityError, ConflictError

MIB = 1 << 20
CONFIG = ArenaConfig(budget_bytes=12 * MIB, extent_bytes=2 * MIB, huge_pages="never")
REVISIONS = st.sampled_from([letter * 32 for letter in "abcde"])


class AnyOrder(RuleBasedStateMachine):
    """A model of the arena beside the arena: what loads, what is whole, what is pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.arena = Arena.open(self.home, CONFIG)
        self.loading: dict[str, Region] = {}
        self.whole: dict[str, int] = {}
        self.pins: dict[str, Pin] = {}

    @rule(revision=REVISIONS, nbytes=st.integers(1, 9 * MIB))
    def allocate(self, revision: str, nbytes: int) -> None:
        held_bytes = self.arena.held_bytes(nbytes)
        if revision in self.loading or revision in self.whole:
            with pytest.raises(ConflictError):
                self.arena.allocate(revision, nbytes)
        elif held_bytes > self.arena.free_bytes:
            with pytest.raises(CapacityError):
                self.arena.allocate(revision, nbytes)
        else:
            region = self.loading[revision] = self.arena.allocate(revision, nbytes)
            for at in {0, nbytes // 2, nbytes - 1}:
                region.view[at] = ord(revision[0])

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        revision = data.draw(st.sampled_from(sorted(self.loading)))
        region = self.loading.pop(revision)
        self.arena.publish(region)
        self.whole[revision] = region.nbytes

    @precondition(lambda self: self.loading or self.whole)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        revision = data.draw(st.sampled_from(sorted([*self.loading, *self.whole])))
        if revision in self.pins:
            with pytest.raises(ConflictError):
                self.arena.release(revision)
        else:
            self.arena.release(revision)
            self.loading.pop(revision, None)
            self.whole.pop(revision, None)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def pin_or_let_go(self, data: st.DataObject) -> None:
        revision = data.draw(st.sampled_from(sorted(self.whole)))
        if revision in self.pins:
            self.pins.pop(revision).close()
        else:
            self.pins[revision] = self.arena.pin(revision)

    @rule()
    def restart(self) -> None:
        self.loading.clear()
        self.arena.close(keep=True)
        self.arena = Arena.open(self.home, CONFIG)
        assert set(self.arena.adopted) == set(self.whole)

    @invariant()
    def every_extent_is_free_or_held_once(self) -> None:
        entries = self.arena.entries()
        extents = sorted(extent for entry in entries for extent in self._extents(entry.revision))
        assert all(
            start + size <= after for (start, size), (after, _) in zip(extents, extents[1:], strict=False)
        )
        assert self.arena.used_bytes == sum(entry.held_bytes for entry in entries)
        assert self.arena.used_bytes + self.arena.free_bytes == self.arena.budget_bytes

    @invariant()
    def whole_regions_have_their_bytes_and_pins_are_seen(self) -> None:
        assert {entry.revision for entry in self.arena.entries() if entry.pinned} == set(self.pins)
        for revision, nbytes in self.whole.items():
            with self.arena.pin(revision) as pin:
                view = map_extents(pin.fd, self._extents(revision), writable=False).view
                assert {view[at] for at in (0, nbytes // 2, nbytes - 1)} == {ord(revision[0])}

    def _extents(self, revision: str) -> list[tuple[int, int]]:
        region = self.arena.get(revision) or self.loading[revision]
        return region.extents

    def teardown(self) -> None:
        for pin in self.pins.values():
            pin.close()
        self.loading.clear()
        self.arena.close(keep=False)
        shutil.rmtree(self.home)


AnyOrder.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestArenaInAnyOrder = AnyOrder.TestCase
