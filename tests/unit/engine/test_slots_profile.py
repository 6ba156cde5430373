# SPDX-License-Identifier: Apache-2.0
"""What was measured on this machine survives a restart, and a broken file does not stop one."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.engine.slots_profile import PROFILE_NAME, DtypeProfile, machine_key


def test_remembered_dtype_is_found_by_the_next_start(tmp_path: Path) -> None:
    DtypeProfile(tmp_path).put("a", "bfloat16")
    DtypeProfile(tmp_path).put("b", "float32")
    assert [DtypeProfile(tmp_path).get(key) for key in ("a", "b", "c")] == ["bfloat16", "float32", None]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"dtypes": 3}', b"\xff"])
def test_broken_profile_counts_as_empty_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PROFILE_NAME).write_bytes(content)
    profile = DtypeProfile(tmp_path)
    assert profile.get("a") is None
    profile.put("a", "float32")
    assert profile.get("a") == "float32"


def test_machine_key_differs_by_threads() -> None:
    assert machine_key("simulated", 1) != machine_key("simulated", 2)
