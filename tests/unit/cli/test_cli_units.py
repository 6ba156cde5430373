# SPDX-License-Identifier: Apache-2.0
"""Quantities as the CLI writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.cli.units import (
    age_text,
    bytes_text,
    count_text,
    duration_text,
    rate_text,
    setting_text,
    size_text,
)
from serverlessllm.config import parse_bytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (283115520, "270.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_bytes_are_binary(nbytes: int, text: str) -> None:
    assert bytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0042, "4.2 ms"),
        (0.283, "283 ms"),
        (0.9999, "1.0 s"),
        (4.25, "4.2 s"),
        (312, "5 min 12 s"),
        (300, "5 min"),
        (7500, "2 h 5 min"),
        (float("inf"), "–"),
    ],
)
def test_durations_have_the_unit_that_a_person_would_choose(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_are_decimal() -> None:
    assert rate_text(1.93e9) == "1.93 GB/s"
    assert rate_text(241.4e6) == "241 MB/s"


def test_ages_and_counts_read_as_words() -> None:
    assert [age_text(s) for s in (0.2, 12.9, 185, 7300, 180000)] == [
        "now",
        "12 s ago",
        "3 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert (count_text(1, "model"), count_text(2, "model")) == ("1 model", "2 models")


@given(st.integers(0, 1 << 50))
def test_size_text_is_exact_for_the_parser_of_settings(nbytes: int) -> None:
    assert parse_bytes(size_text(nbytes)) == nbytes


def test_settings_are_written_as_yaml_reads_them() -> None:
    assert setting_text(8 << 20, "loader.chunk_bytes") == "8MiB"
    assert setting_text(8 << 20, "orchestrator.port") == "8388608"
    assert setting_text((), "orchestrator.allowed_hosts") == "[]"
    assert setting_text(False, "arena.keep_on_stop") == "false"
