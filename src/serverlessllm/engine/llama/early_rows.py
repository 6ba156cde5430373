# SPDX-License-Identifier: Apache-2.0
"""Rows of the embedding matrix that came ahead of it: which are wanted, which are here. Knows no passes.

Their bytes are copies of what a source gave; nobody has verified them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.wire.worker import TensorSlice


class EarlyRows:
    """Rows of the matrix at `place`, by number."""

    def __init__(self, place: TensorSlice, tensors: RegionTensors) -> None:
        self._place = place
        self._tensors = tensors
        self._row_bytes = place.nbytes // place.shape[0]
        self._rows: dict[int, bytes] = {}
        self._asked: set[int] = set()
        self._wanted: set[int] = set()

    def want(self, numbers: Iterable[int]) -> None:
        """Ask for these rows, if nobody has yet."""
        self._wanted |= set(numbers) - self._asked

    def take_wanted(self) -> list[tuple[int, int]]:
        """(offset in the region, nbytes) of what was asked for since the last call; neighbours in one."""
        wanted, self._wanted = sorted(self._wanted), set()
        self._asked.update(wanted)
        return [
            (self._place.offset + first * self._row_bytes, count * self._row_bytes)
            for first, count in _runs(wanted)
        ]

    def put(self, offset: int, data: bytes) -> None:
        """Whole rows from `offset` of the region on."""
        first = (offset - self._place.offset) // self._row_bytes
        for index in range(len(data) // self._row_bytes):
            start = index * self._row_bytes
            self._rows[first + index] = data[start : start + self._row_bytes]

    def has(self, numbers: Iterable[int]) -> bool:
        """Whether all of these are here."""
        return all(number in self._rows for number in numbers)

    def gather(self, numbers: Iterable[int]) -> torch.Tensor:
        """The rows, one per number, in the compute dtype. Raises KeyError for one that is not here."""
        return self._tensors.rows(self._place, bytearray().join([self._rows[number] for number in numbers]))


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of consecutive numbers in ascending ones."""
    first = count = 0
    for number in numbers:
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count
