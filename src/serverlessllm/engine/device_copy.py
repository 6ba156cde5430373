# SPDX-License-Identifier: Apache-2.0
"""The arena → device stage of a worker: shards copied on one stream, each with an event that its users wait for.

One stream, because copies of one direction share one engine of the device: more streams only mix shards up, and the
first block would wait for the last. Copies are asynchronous where the region is page-locked
(`host_registration.py`). On the CPU the same code copies at once; that is how it is tested here.
Knows bytes and rectangles (`device_layout.py`); not what the tensors mean.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch

from serverlessllm.engine.copy_plan import CopyRectangle
from serverlessllm.engine.device_layout import DeviceLayout, PlacedCopy, byte_runs
from serverlessllm.engine.host_arena import HostBytes
from serverlessllm.errors import EngineError, UnsupportedCheckpointError

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
    """One model's way to one device. `buffer` is filled shard by shard; wait for a shard before you use its part."""

    def __init__(
        self,
        source: HostBytes,
        plan: DeviceLayout,
        device: torch.device,
        *,
        stream: CopyStream | None = None,
    ) -> None:
        """Allocates all of the model. The source must outlive the copies: `finish` before it is unmapped.

        Raises: UnsupportedCheckpointError for a dtype that torch does not have; EngineError when the device lacks
        the memory.
        """
        for copies in plan.shards.values():
            for copy in copies:
                _torch_dtype(copy.rectangle)
        self._source = source
        self._plan = plan
        self._stream = stream or (CudaCopyStream(device) if device.type == "cuda" else ImmediateStream())
        self._events: dict[str, CopyEvent] = {}
        try:
            self.buffer = torch.empty(plan.nbytes, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"{device} lacks the {plan.nbytes} bytes of the model; let another one sleep, or use a larger device"
            ) from error

    def copy_shard(self, shard: str) -> None:
        """Enqueue all copies of one shard, once its bytes are in the region. Repeating it does nothing.

        Raises: KeyError for a shard that the plan does not have.
        """
        if shard in self._events:
            return
        runs, strided = byte_runs(self._plan.shards[shard])
        for run in runs:
            at = run.target_offset
            for piece in self._source.pieces(run.source_offset, run.nbytes):
                self._stream.copy(self.buffer[at : at + piece.numel()], piece)
                at += piece.numel()
        for copy in strided:
            self._copy_rectangle(copy)
        self._events[shard] = self._stream.record()

    def wait(self, shard: str) -> None:
        """Let what the current stream computes from now on see the shard. Raises: KeyError before `copy_shard`."""
        self._events[shard].wait()

    def finish(self) -> None:
        """Block until everything that was enqueued has arrived."""
        for event in self._events.values():
            event.synchronize()

    def _copy_rectangle(self, copy: PlacedCopy) -> None:
        """Row by row where the rows' bytes lie in several pieces, else as one strided copy."""
        rectangle = copy.rectangle
        dtype = _torch_dtype(rectangle)
        num_rows, width = rectangle.rows[1] - rectangle.rows[0], rectangle.columns[1] - rectangle.columns[0]
        target = self.buffer[copy.target_offset : copy.target_offset + rectangle.nbytes].view(dtype)
        target = target.view(num_rows, width)
        row_bytes = rectangle.num_columns * rectangle.item_nbytes
        start = rectangle.source_offset + rectangle.rows[0] * row_bytes
        pieces = self._source.pieces(start, num_rows * row_bytes)
        if len(pieces) == 1:
            rows = pieces[0].view(dtype).view(num_rows, rectangle.num_columns)
            self._stream.copy(target, rows[:, slice(*rectangle.columns)])
        else:
            self._copy_scattered(copy, start + rectangle.columns[0] * rectangle.item_nbytes, row_bytes)

    def _copy_scattered(self, copy: PlacedCopy, first_byte: int, row_bytes: int) -> None:
        at = copy.target_offset
        end = at + copy.rectangle.nbytes
        width_bytes = (copy.rectangle.columns[1] - copy.rectangle.columns[0]) * copy.rectangle.item_nbytes
        while at < end:
            for piece in self._source.pieces(first_byte, width_bytes):
                self._stream.copy(self.buffer[at : at + piece.numel()], piece)
                at += piece.numel()
            first_byte += row_bytes


def _torch_dtype(rectangle: CopyRectangle) -> torch.dtype:
    dtype = TORCH_DTYPES.get(rectangle.dtype)
    if dtype is None:
        raise UnsupportedCheckpointError(
            f"tensor {rectangle.name}: dtype {rectangle.dtype} is unknown to this torch; update it",
            param=rectangle.name,
            source="engine",
        )
    return dtype
