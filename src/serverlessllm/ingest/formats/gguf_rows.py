# SPDX-License-Identifier: Apache-2.0
"""A GGUF tensor's bytes as rows, read a few at a time, in the order that the model wants them.

Knows neither names nor how to dequantise.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from serverlessllm.errors import CheckpointFormatError
from serverlessllm.ingest.formats.file_range import read_range
from serverlessllm.ingest.formats.gguf_header import GgufTensor


class Rows:
    """Quantisation blocks as rows: the smallest unit, so that no row is ever large. `num_items` per row."""

    def __init__(self, path: Path, tensor: GgufTensor) -> None:
        items, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.type)]
        self.num_items = int(items)
        self.num_rows = tensor.nbytes // int(nbytes)
        self._path = path
        self._tensor = tensor
        self._row_bytes = int(nbytes)

    def read(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        """Rows `start` to `end` as stored: (rows, bytes per row) uint8. Raises CorruptDataError."""
        rows = np.empty((end - start, self._row_bytes), np.uint8)
        read_range(
            self._path,
            self._tensor.offset + start * self._row_bytes,
            rows.reshape(-1).data,
            self._tensor.name,
        )
        return rows


class PermutedRows(Rows):
    """The rows of a matrix that llama.cpp permuted head by head: (half, pair) is stored as (pair, half).

    Source: llama.cpp's `LlamaModel.permute`. Reads whole heads, a few megabytes each.
    """

    def __init__(self, path: Path, tensor: GgufTensor, num_heads: int) -> None:
        """Raises CheckpointFormatError if the rows do not make whole heads."""
        super().__init__(path, tensor)
        self.num_rows = tensor.shape[0]
        if self.num_rows % (2 * num_heads) or tensor.nbytes % self.num_rows:
            raise CheckpointFormatError(
                f"tensor {tensor.name!r}: {self.num_rows} rows for {num_heads} heads", param=tensor.name
            )
        self.num_items = int(np.prod(tensor.shape[1:], dtype=np.int64))
        self._head_rows = self.num_rows // num_heads
        self._row_bytes = tensor.nbytes // self.num_rows

    def read(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        """Rows `start` to `end` in the model's order."""
        first, last = start // self._head_rows, -(-end // self._head_rows)
        stored = super().read(first * self._head_rows, last * self._head_rows)
        heads = stored.reshape(last - first, self._head_rows // 2, 2, self._row_bytes)
        rows = heads.swapaxes(1, 2).reshape(-1, self._row_bytes)
        return rows[start - first * self._head_rows : end - first * self._head_rows]
