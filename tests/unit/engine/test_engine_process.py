# SPDX-License-Identifier: Apache-2.0
"""How a process's end is told to people."""

from __future__ import annotations

import pytest

from serverlessllm.engine.process import describe_exit


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [(0, "exited with code 0"), (70, "exited with code 70"), (-9, "was killed by SIGKILL")],
)
def test_exit_is_described_by_code_or_signal_name(exit_code: int, text: str) -> None:
    assert describe_exit(exit_code) == text


def test_signal_without_a_name_keeps_its_number() -> None:
    assert describe_exit(-63) == "was killed by signal 63"
