# SPDX-License-Identifier: Apache-2.0
"""Page-locks mapped arena memory for a GPU, so that copies from it are asynchronous and at the bus's pace.

Done by a slot while it waits, never on a request's road: registering costs some 100 ms per GB. Only a slot that is
trusted with the whole arena may do it (DESIGN 9). Knows addresses; not what lies there.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Protocol, Self

from serverlessllm.arena.mapping import Mapping
from serverlessllm.errors import EngineError

REGISTER_DEFAULT: Final = 0
REGISTER_READ_ONLY: Final = 8
"""cudaHostRegisterReadOnly: for a mapping that we may not write; not every device has it."""
_SUCCESS: Final = 0


class HostMemoryApi(Protocol):
    """The two calls of the CUDA runtime that are needed, as `torch.cuda.cudart()` has them; they return a code."""

    def cudaHostRegister(self, ptr: int, size: int, flags: int) -> int: ...  # noqa: N802 - CUDA's name

    def cudaHostUnregister(self, ptr: int) -> int: ...  # noqa: N802 - CUDA's name


class HostRegistration:
    """One registered mapping; unregister it before the mapping is closed. A context manager."""

    def __init__(self, api: HostMemoryApi, mapping: Mapping) -> None:
        """Register all of `mapping`: read-only where the device can, else as ordinary memory.

        Raises: EngineError with CUDA's code; then nothing is registered.
        """
        self._api = api
        self._address = mapping.address
        code = int(api.cudaHostRegister(mapping.address, mapping.nbytes, REGISTER_READ_ONLY))
        if code != _SUCCESS:
            code = int(api.cudaHostRegister(mapping.address, mapping.nbytes, REGISTER_DEFAULT))
        if code != _SUCCESS:
            raise EngineError(
                f"cudaHostRegister of {mapping.nbytes} bytes failed with CUDA error {code}; raise the limit on "
                "locked memory (ulimit -l), or lower arena.budget_bytes"
            )
        self._is_registered = True

    def close(self) -> None:
        """Unregister. Idempotent; no copy may be in flight. Raises: EngineError with CUDA's code."""
        if not self._is_registered:
            return
        self._is_registered = False
        code = int(self._api.cudaHostUnregister(self._address))
        if code != _SUCCESS:
            raise EngineError(f"cudaHostUnregister failed with CUDA error {code}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def register_for_cuda(mapping: Mapping) -> HostRegistration:
    """Register with this process's CUDA runtime, which is initialised by it. Raises: EngineError."""
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has no types here
    api: HostMemoryApi = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch has no types here
    return HostRegistration(api, mapping)
