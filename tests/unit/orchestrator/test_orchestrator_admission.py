# SPDX-License-Identifier: Apache-2.0
"""Names out of Host headers, and what counts as loopback."""

from __future__ import annotations

import pytest

from serverlessllm.orchestrator.admission import host_name, is_loopback


@pytest.mark.parametrize(
    ("netloc", "name"),
    [
        ("LocalHost:8343", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:8343", "::1"),
        ("localhost:notaport", "localhost"),
        ("localhost@evil.example", "evil.example"),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_host_header_gives_its_name(netloc: str, name: str) -> None:
    assert host_name(netloc) == name


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_loopback_is_told_from_public(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
