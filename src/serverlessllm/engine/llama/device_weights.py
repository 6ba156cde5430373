# SPDX-License-Identifier: Apache-2.0
"""A model's weights on their way to a GPU: copies are enqueued at once, and each block waits for its own shard.

Nothing here blocks: a wait is enqueued on the compute stream, so that the first pass follows the copies block by
block. Knows no requests and no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import torch

from serverlessllm.engine.base import Weights
from serverlessllm.engine.device_copy import TORCH_DTYPES, DeviceCopy
from serverlessllm.engine.device_layout import plan_device
from serverlessllm.engine.host_arena import HostBytes
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights, complete_weights, read_layer
from serverlessllm.wire.worker import ModelLayout


class DeviceWeights:
    """One model's copy to one device."""

    def __init__(
        self,
        config: LlamaConfig,
        source: HostBytes,
        layout: ModelLayout,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate, and enqueue the copies of all shards. The source must outlive them: `finish` before it goes.

        Raises: EngineError when the device lacks the memory; UnsupportedCheckpointError, CheckpointFormatError.
        """
        plan = plan_device(layout, head_dim=config.head_dim)
        self._copy = DeviceCopy(source, plan, device)
        for shard in plan.shards:
            self._copy.copy_shard(shard)
        placed = Weights(memoryview(b""), plan.layout)
        self._tensors = RegionTensors(placed, dtype, copied=self._copy.buffer)
        if config.traits.is_gemma or any(TORCH_DTYPES[tensor.dtype] != dtype for tensor in layout.tensors):
            # What must be converted, or is a norm's offset, is read now; a stream that follows block by block is for
            # checkpoints as stored.
            self._copy.finish()
        self._copy.wait("embed")
        layers = _ArrivingLayers(config, self._tensors, self._copy)
        self.weights: LlamaWeights = complete_weights(config, self._tensors, layers)

    @property
    def copied_bytes(self) -> int:
        """Bytes whose dtype had to be changed on the device."""
        return self._tensors.copied_bytes

    def finish(self) -> None:
        """Block until every byte has arrived."""
        self._copy.finish()


class _ArrivingLayers(Sequence[LayerWeights]):
    """The blocks in order. Going through them the first time makes the compute stream wait for each one's shard."""

    def __init__(self, config: LlamaConfig, tensors: RegionTensors, copy: DeviceCopy) -> None:
        self._config = config
        self._tensors = tensors
        self._copy = copy
        self._layers: list[LayerWeights] = []

    def __len__(self) -> int:
        return self._config.num_layers

    @overload
    def __getitem__(self, index: int) -> LayerWeights: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerWeights]: ...

    def __getitem__(self, index: int | slice) -> LayerWeights | Sequence[LayerWeights]:
        return list(self)[index]

    def __iter__(self) -> Iterator[LayerWeights]:
        yield from self._layers
        for index in range(len(self._layers), len(self)):
            self._copy.wait(f"block.{index}")
            self._layers.append(read_layer(self._config, self._tensors, index))
            if index == len(self) - 1:
                self._copy.wait("final")
            yield self._layers[-1]
