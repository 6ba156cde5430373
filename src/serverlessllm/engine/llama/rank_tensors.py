# SPDX-License-Identifier: Apache-2.0
"""One rank's part of a region's tensors, as views: no byte is copied, whichever rows or columns are taken.

Rows of a matrix are one run of bytes. Columns are a strided view, which matrix products take as it is: the rows of
the whole matrix lie as far apart as they did. Knows where parts lie (`copy_plan.py`), not what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serverlessllm.engine.base import Weights
from serverlessllm.engine.copy_plan import CopyRectangle, plan_copies
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.region import RegionTensors, malformed


class RankTensors(RegionTensors):
    """As `RegionTensors`, with the shapes of one rank. Embeddings are whole: each rank looks its rows up itself."""

    def __init__(self, config: LlamaConfig, weights: Weights, dtype: torch.dtype, group: RankGroup) -> None:
        """`config` is the whole model's. Raises: UnsupportedCheckpointError for what does not divide evenly."""
        super().__init__(weights, dtype)
        self._group = group
        divided = [tensor for tensor in weights.layout.tensors if not tensor.name.endswith(WHOLE)]
        plan = plan_copies(divided, head_dim=config.head_dim, rank=group.rank, world_size=group.world_size)
        self._parts = {part.name: part for shard in plan.values() for part in shard}

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The rank's part, which has `shape`. Raises as `RegionTensors.tensor`."""
        part = self._parts.get(self._aliases.get(name, name))
        if part is None:
            return super().tensor(name, shape)
        if part.target_shape != shape:
            raise malformed(name, f"has shape {part.shape}; config.json asks for another")
        return self._converted(self._rectangle(part))

    def stacked(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Sequence[torch.Tensor]:
        """One view for each: a rank's rows of several matrices do not lie back to back."""
        return [self.tensor(name, shape) for name, shape in zip(names, shapes, strict=True)]

    def head_rows(self, head: torch.Tensor) -> torch.Tensor:
        """The rank's rows, a view."""
        return self._group.head_rows(head)

    def _rectangle(self, part: CopyRectangle) -> torch.Tensor:
        whole = self._view(self._slices[part.name], part.source_offset, part.shape)
        rows = whole[part.rows[0] : part.rows[1]] if part.shape else whole
        return rows if len(part.shape) != 2 else rows[:, part.columns[0] : part.columns[1]]


WHOLE = ("embed_tokens.weight", "lm_head.weight")
"""Not divided here: all rows of the embedding are looked up, and `head_rows` divides the head."""
