# SPDX-License-Identifier: Apache-2.0
"""The arena → device stage of a worker: shards copied on one stream, each with an event that its users wait for.

One stream, because copies of one direction share one engine of the device: more streams only mix shards up, and the
first block would wait for the last. Copies are asynchronous where the region is page-locked
(`host_registration.py`). On the CPU the same code copies at once; that is how it is tested here.
Knows rectangles (`copy_plan.py`); not what the tensors mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import torch

from serverlessllm.engine.copy_plan import CopyRectangle
from serverlessllm.errors import UnsupportedCheckpointError

TORCH_DTYPES: Final = {
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


class CopyEvent(Protocol):
    """The end of what was enqueued before it."""

    def wait(self) -> None:
        """Make the current compute stream wait for it; does not block the caller."""

    def synchronize(self) -> None:
        """Block until it has come."""


class CopyStream(Protocol):
    """Where copies are enqueued."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Enqueue one copy; both have the same shape and dtype."""

    def record(self) -> CopyEvent:
        """An event after all copies so far."""


class _Done:
    def wait(self) -> None:
        return

    def synchronize(self) -> None:
        return


class ImmediateStream:
    """Copies at once: the CPU's."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `CopyStream.copy`."""
        target.copy_(source)

    def record(self) -> CopyEvent:
        """See `CopyStream.record`."""
        return _Done()


class CudaCopyStream:
    """A CUDA stream of its own, so that copies overlap with compute."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types here

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `CopyStream.copy`."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        # The allocator must not reuse the target's memory while this stream writes to it.
        target.record_stream(self._stream)

    def record(self) -> CopyEvent:
        """See `CopyStream.record`."""
        event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types here
        event.record(self._stream)
        return event


class DeviceCopy:
    """One model's way to one device. `tensors` is filled shard by shard; wait for a shard before you use them."""

    def __init__(
        self,
        region: memoryview,
        shards: Mapping[str, Sequence[CopyRectangle]],
        device: torch.device,
        *,
        stream: CopyStream | None = None,
    ) -> None:
        """`region` must outlive the copies: `finish` before it is unmapped. `shards` as from `plan_copies`.

        Raises: UnsupportedCheckpointError for a dtype that torch does not have.
        """
        for rectangles in shards.values():
            for rectangle in rectangles:
                _torch_dtype(rectangle)
        self._region = region
        self._shards = shards
        self._device = device
        self._stream = stream or (CudaCopyStream(device) if device.type == "cuda" else ImmediateStream())
        self._events: dict[str, CopyEvent] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.copied_bytes = 0

    def copy_shard(self, shard: str) -> None:
        """Enqueue all copies of one shard, once its bytes are in the region. Repeating it does nothing.

        Raises: KeyError for a shard that the plan does not have.
        """
        if shard in self._events:
            return
        for rectangle in self._shards[shard]:
            source = source_view(self._region, rectangle)
            target = torch.empty(source.shape, dtype=source.dtype, device=self._device)
            self._stream.copy(target, source)
            self.tensors[rectangle.name] = target.view(rectangle.target_shape)
            self.copied_bytes += rectangle.nbytes
        self._events[shard] = self._stream.record()

    def wait(self, shard: str) -> None:
        """Let what the current stream computes from now on see the shard. Raises: KeyError before `copy_shard`."""
        self._events[shard].wait()

    def finish(self) -> None:
        """Block until everything that was enqueued has arrived."""
        for event in self._events.values():
            event.synchronize()


def source_view(region: memoryview, rectangle: CopyRectangle) -> torch.Tensor:
    """The rectangle as a view of the region, (rows, columns); no byte is copied."""
    dtype = _torch_dtype(rectangle)
    num_rows = rectangle.shape[0] if rectangle.shape else 1
    with warnings.catch_warnings():
        # The region is mapped read-only, which torch cannot express; nothing writes through this view.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(
            region, dtype=dtype, count=num_rows * rectangle.num_columns, offset=rectangle.source_offset
        )
    matrix = flat.view(num_rows, rectangle.num_columns)
    return matrix[slice(*rectangle.rows), slice(*rectangle.columns)]


def _torch_dtype(rectangle: CopyRectangle) -> torch.dtype:
    dtype = TORCH_DTYPES.get(rectangle.dtype)
    if dtype is None:
        raise UnsupportedCheckpointError(
            f"tensor {rectangle.name}: dtype {rectangle.dtype} is unknown to this torch; update it",
            param=rectangle.name,
            source="engine",
        )
    return dtype
