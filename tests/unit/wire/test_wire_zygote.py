# SPDX-License-Identifier: Apache-2.0
"""Packets between agent and zygote."""

from __future__ import annotations

import pytest

from serverlessllm.errors import WireError
from serverlessllm.wire.zygote import Exited, Fork, decode_from_zygote, decode_to_zygote, encode_packet


def test_command_and_report_survive_the_wire() -> None:
    fork, exited = Fork("s", "/run/s", "float32", 2), Exited("s", 7, -9)
    assert decode_to_zygote(encode_packet(fork)) == fork
    assert decode_from_zygote(encode_packet(exited)) == exited


@pytest.mark.parametrize("packet", [b"", b"\xc1", b"\x80", encode_packet(Exited("s", 7, 0))])
def test_packet_that_is_no_command_is_a_wire_error(packet: bytes) -> None:
    with pytest.raises(WireError, match="malformed command"):
        decode_to_zygote(packet)
