# SPDX-License-Identifier: Apache-2.0
"""Registering arena memory, against a runtime that records what it is asked."""

from __future__ import annotations

import os

import pytest

from serverlessllm.arena.mapping import Mapping, map_extents
from serverlessllm.engine.host_registration import REGISTER_DEFAULT, REGISTER_READ_ONLY, HostRegistration
from serverlessllm.errors import EngineError


class Runtime:
    """Refuses the flags in `refused` with CUDA's 801 (not supported)."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused
        self.calls: list[tuple[int, ...]] = []

    def cudaHostRegister(self, ptr: int, size: int, flags: int) -> int:
        self.calls.append((ptr, size, flags))
        return 801 if flags in self.refused else 0

    def cudaHostUnregister(self, ptr: int) -> int:
        self.calls.append((ptr,))
        return 0


@pytest.fixture
def mapping() -> Mapping:
    fd = os.memfd_create("arena")
    os.ftruncate(fd, 8192)
    made = map_extents(fd, [(0, 8192)], writable=False)
    os.close(fd)
    return made


def test_mapping_is_registered_read_only_and_unregistered_once(mapping: Mapping) -> None:
    runtime = Runtime()
    registration = HostRegistration(runtime, mapping)
    registration.close()
    registration.close()
    assert runtime.calls == [(mapping.address, 8192, REGISTER_READ_ONLY), (mapping.address,)]


def test_device_without_read_only_registration_gets_the_ordinary_one(mapping: Mapping) -> None:
    runtime = Runtime(REGISTER_READ_ONLY)
    with HostRegistration(runtime, mapping):
        assert runtime.calls[1:] == [(mapping.address, 8192, REGISTER_DEFAULT)]
    assert runtime.calls[2:] == [(mapping.address,)]


def test_refusal_says_the_code_and_registers_nothing(mapping: Mapping) -> None:
    with pytest.raises(EngineError, match="CUDA error 801"):
        HostRegistration(Runtime(REGISTER_READ_ONLY, REGISTER_DEFAULT), mapping)
