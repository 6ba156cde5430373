# SPDX-License-Identifier: Apache-2.0
"""The key under which a measured dtype is remembered."""

from __future__ import annotations

from serverlessllm.engine.slots_profile import machine_key


def test_machine_key_differs_by_threads() -> None:
    assert machine_key("simulated", 1) != machine_key("simulated", 2)
