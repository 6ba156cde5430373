# SPDX-License-Identifier: Apache-2.0
"""Tensors as views of mapped bytes. Knows torch and mmap, not vLLM and not who owns the file.

Each extent is mapped by itself. A tensor within one extent is a view; one that crosses a border is put together in
memory of its own, which lives as long as the tensor: vLLM copies each into a parameter before it asks for the next.
"""

from __future__ import annotations

import bisect
import mmap
import os
from collections.abc import Iterator
from typing import Final

import torch

from serverlessllm_vllm.manifest import Manifest, ManifestError, TensorPlace

DTYPES: Final = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}


class Region:
    """The mapped extents of one manifest. Unmapped when the last tensor made of it is gone."""

    def __init__(self, manifest: Manifest) -> None:
        """Map them. Raises: OSError when the file is gone or cannot be mapped."""
        self._starts: list[int] = []
        self._extents: list[torch.Tensor] = []
        at = 0
        descriptor = os.open(manifest.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset, nbytes in manifest.extents:
                self._starts.append(at)
                self._extents.append(_map(descriptor, offset, nbytes))
                at += nbytes
        finally:
            os.close(descriptor)
        self.nbytes = at

    def tensor(self, place: TensorPlace) -> torch.Tensor:
        """The tensor at `place`. Raises ManifestError when it lies outside or is of a dtype that we do not know."""
        if place.dtype not in DTYPES:
            raise ManifestError(f"{place.name}: dtype {place.dtype!r} is unknown to this plugin")
        if place.offset < 0 or place.offset + place.nbytes > self.nbytes:
            raise ManifestError(f"{place.name}: lies outside the region of {self.nbytes} bytes")
        if not place.nbytes:
            return torch.empty(place.shape, dtype=DTYPES[place.dtype])
        pieces = list(self._pieces(place.offset, place.nbytes))
        data = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return data.view(DTYPES[place.dtype]).view(place.shape)

    def _pieces(self, offset: int, nbytes: int) -> Iterator[torch.Tensor]:
        """The bytes from `offset` on, extent by extent."""
        index = bisect.bisect_right(self._starts, offset) - 1
        while nbytes > 0:
            begin = offset - self._starts[index]
            piece = self._extents[index][begin : begin + nbytes]
            yield piece
            offset += piece.numel()
            nbytes -= piece.numel()
            index += 1


def tensors(manifest: Manifest, *, with_aliases: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor with its name, in the order in which it lies; tied names too if asked for."""
    region = Region(manifest)
    places = {place.name: place for place in manifest.tensors}
    for place in sorted(manifest.tensors, key=lambda place: place.offset):
        yield place.name, region.tensor(place)
    if with_aliases:
        for alias, target in manifest.aliases.items():
            yield alias, region.tensor(places[target])


def _map(descriptor: int, offset: int, nbytes: int) -> torch.Tensor:
    """Bytes of the file. A private mapping: torch wants memory that could be written, and nobody writes it."""
    mapped = mmap.mmap(
        descriptor, nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
    )
    return torch.frombuffer(mapped, dtype=torch.uint8)
