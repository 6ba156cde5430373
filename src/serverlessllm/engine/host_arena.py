# SPDX-License-Identifier: Apache-2.0
"""The bytes of a region as a device's copies read them: from the whole arena, mapped and page-locked beforehand.

A region lies in extents of the arena file. A GPU slot maps the file once, in file order, and page-locks it while it
waits; a region's bytes are then pieces of that mapping. Knows no shards and no streams.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from serverlessllm.arena.mapping import Extent, map_extents
from serverlessllm.engine.host_registration import HostRegistration, register_for_cuda
from serverlessllm.errors import EngineError


class HostBytes(Protocol):
    """Where copies read a region."""

    def pieces(self, offset: int, nbytes: int) -> list[torch.Tensor]:
        """The region's bytes `offset:offset+nbytes`, in order, as uint8 tensors that nothing writes to."""


class HostRegion:
    """A region that is mapped as one range: of ordinary memory, which copies go through slowly."""

    def __init__(self, region: memoryview) -> None:
        self._bytes = as_bytes(region)

    def pieces(self, offset: int, nbytes: int) -> list[torch.Tensor]:
        """See `HostBytes.pieces`; always one."""
        return [self._bytes[offset : offset + nbytes]]


class HostArena:
    """The arena file of a node, mapped read-only and page-locked for this process's device."""

    def __init__(self, path: Path, registration: HostRegistration | None, view: memoryview) -> None:
        """Made by `open`; `registration` lives as long as the arena does here."""
        self.path = path
        self._registration = registration
        self._bytes = as_bytes(view)

    @classmethod
    def open(cls, path: Path, *, register: bool = True) -> HostArena:
        """Map and page-lock all of the file. Takes some 30 ms per GiB, more where pages are touched first.

        Raises: EngineError when it cannot be mapped or locked.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                mapping = map_extents(fd, [(0, os.fstat(fd).st_size)], writable=False)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot map the arena {path}: {error}") from error
        return cls(path, register_for_cuda(mapping) if register else None, mapping.view)

    def region(self, extents: Sequence[Extent]) -> HostBytes:
        """The region that lies in `extents` of the file."""
        return _ArenaRegion(self._bytes, tuple(extents))


class _ArenaRegion:
    def __init__(self, arena: torch.Tensor, extents: tuple[Extent, ...]) -> None:
        self._arena = arena
        self._extents = extents

    def pieces(self, offset: int, nbytes: int) -> list[torch.Tensor]:
        return [
            self._arena[start : start + length] for start, length in file_runs(self._extents, offset, nbytes)
        ]


def file_runs(extents: Sequence[Extent], offset: int, nbytes: int) -> list[Extent]:
    """Which runs of the file hold the region's bytes `offset:offset+nbytes`, in order. Pure.

    Raises: ValueError when they do not lie in the extents.
    """
    runs: list[Extent] = []
    passed = 0
    left = nbytes
    for start, length in extents:
        skip = max(0, offset - passed)
        taken = min(length - skip, left)
        if taken > 0:
            runs.append((start + skip, taken))
            left -= taken
            offset += taken
        passed += length
    if left:
        raise ValueError(f"bytes {offset}..{offset + left} lie outside the region's {passed}")
    return runs


def as_bytes(view: memoryview) -> torch.Tensor:
    """The view as a uint8 tensor; no byte is copied."""
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The mapping is read-only, which torch cannot express; nothing writes through this tensor.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(view, dtype=torch.uint8)
