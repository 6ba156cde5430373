# SPDX-License-Identifier: Apache-2.0
"""What was measured on this machine survives a restart, and a broken file does not stop one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serverlessllm.node_profile import PROFILE_NAME, IoProfile, NodeProfile

IO = IoProfile(num_threads=4, read_bytes=8 << 20, is_direct=True, bytes_per_s=3e9, measured_at_s=1.0)


def test_remembered_dtype_is_found_by_the_next_start(tmp_path: Path) -> None:
    NodeProfile(tmp_path).put_dtype("a", "bfloat16")
    NodeProfile(tmp_path).put_dtype("b", "float32")
    assert [NodeProfile(tmp_path).dtype(key) for key in ("a", "b", "c")] == ["bfloat16", "float32", None]


def test_dtypes_and_disk_do_not_overwrite_one_another(tmp_path: Path) -> None:
    NodeProfile(tmp_path).put_dtype("a", "bfloat16")
    NodeProfile(tmp_path).put_io(IO)
    measured = NodeProfile(tmp_path).read()
    assert (measured.io, measured.dtypes) == (IO, {"a": "bfloat16"})


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: NodeProfile(tmp_path).put_dtype(str(i), "float32"), range(40)))
    assert len(NodeProfile(tmp_path).read().dtypes) == 40


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"dtypes": 3}', b"\xff"])
def test_broken_profile_counts_as_empty_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PROFILE_NAME).write_bytes(content)
    profile = NodeProfile(tmp_path)
    assert profile.dtype("a") is None
    profile.put_dtype("a", "float32")
    assert profile.dtype("a") == "float32"
