# SPDX-License-Identifier: Apache-2.0
"""From an index to what an engine needs: every tensor and group at its offset in the mapped region.

Pure; knows no files and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from serverlessllm.checkpoint.index import CheckpointIndex
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice


def model_layout(index: CheckpointIndex, architecture: Mapping[str, object]) -> ModelLayout:
    """Offsets counted from the region's start. `architecture` is the checkpoint's `config.json`."""
    start = {shard.id: index.region_offset(shard.id) for shard in index.shards}
    return ModelLayout(
        architecture=dict(architecture),
        tensors=[
            TensorSlice(entry.name, entry.dtype, entry.shape, start[entry.shard] + entry.offset, entry.nbytes)
            for entry in index.tensors
        ],
        groups=[
            TensorGroup(group.kind, group.members, start[group.shard] + group.offset, group.nbytes)
            for group in index.groups
        ],
        aliases=dict(index.aliases),
    )
