# SPDX-License-Identifier: Apache-2.0
"""What every source format is to the converter. Knows no format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serverlessllm.checkpoint.spec import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor that the source offers, under its Hugging Face name. `shape` is row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the bytes that `read_into` gives."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class TensorReader(Protocol):
    """Weights alone: one file, or several read as one."""

    def tensors(self) -> list[SourceTensor]:
        """All tensors, each once."""

    def read_into(self, name: str, view: memoryview, offset: int = 0) -> None:
        """Fill `view` with the tensor's little-endian, row-major bytes from `offset` on.

        `offset` and the view's size are multiples of the item size, and lie within the tensor. Reads, never
        maps, and takes memory for the view's part only: a tensor may be larger than the machine's memory.
        Raises: CorruptDataError if the source ends early.
        """


class Source(TensorReader, Protocol):
    """A whole checkpoint."""

    default_dtype: str | None
    """Float dtype to convert to when the user names none; None keeps every tensor's own."""
    digest: str | None
    """Digest of the checkpoint that this source was made from, if it knows; None: the converter hashes."""
    aliases: Mapping[str, str]
    """Names that the source itself says are another tensor's bytes."""

    def config(self) -> dict[str, object]:
        """`config.json`, parsed."""

    def files(self) -> dict[str, bytes]:
        """Tokenizer and configuration files by plain name, `config.json` included."""
