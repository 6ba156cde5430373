# SPDX-License-Identifier: Apache-2.0
"""Reads over a real TCP connection: large ones come back full, and silence ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serverlessllm.sources.body_socket import LARGE_BYTES, BodySocket

DATA = os.urandom(4 * LARGE_BYTES)


@contextmanager
def connected(stall_timeout_s: float) -> Iterator[tuple[BodySocket, socket.socket]]:
    """Our end and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs, BodySocket(plain, stall_timeout_s) as ours:
            yield ours, theirs


def test_large_read_waits_until_it_is_full() -> None:
    with connected(10.0) as (ours, theirs), ours.makefile("rb") as reader:

        def send_bit_by_bit() -> None:
            for at in range(0, len(DATA), 1000):
                theirs.sendall(DATA[at : at + 1000])

        sender = threading.Thread(target=send_bit_by_bit)
        sender.start()
        buffer = bytearray(len(DATA))
        assert reader.raw.readinto(buffer) == len(DATA)
        sender.join()
    assert buffer == DATA


def test_header_is_read_without_waiting_for_more() -> None:
    with connected(10.0) as (ours, theirs), ours.makefile("rb") as reader:
        theirs.sendall(b"HTTP/1.1 206 Partial Content\r\n")
        assert reader.readline() == b"HTTP/1.1 206 Partial Content\r\n"


def test_silence_is_a_timeout_and_what_came_before_it_is_not_lost() -> None:
    with connected(0.2) as (ours, theirs), ours.makefile("rb") as reader:
        theirs.sendall(DATA[:1000])
        buffer = bytearray(LARGE_BYTES)
        assert reader.raw.readinto(buffer) == 1000 and buffer[:1000] == DATA[:1000]
        with pytest.raises(TimeoutError, match="timed out"):
            reader.raw.readinto(buffer)


def test_other_end_that_leaves_ends_the_read() -> None:
    with connected(10.0) as (ours, theirs), ours.makefile("rb") as reader:
        theirs.sendall(DATA[:1000])
        theirs.close()
        assert reader.read() == DATA[:1000]


def test_reader_keeps_the_connection_after_the_socket_is_closed() -> None:
    with connected(10.0) as (ours, theirs):
        reader = ours.makefile("rb")
        ours.close()
        theirs.sendall(b"late\n")
        assert reader.readline() == b"late\n"
        reader.close()
        assert theirs.recv(1) == b""
