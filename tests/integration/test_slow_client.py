# SPDX-License-Identifier: Apache-2.0
"""A client that reads slower than its model writes: every id arrives once and in order, by either road."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

from serverlessllm.wire import sse
from support.cluster import add_model
from support.model_dirs import write_simulated
from support.platform import Platform

NUM_TOKENS = 7000


def read_slowly(url: str, body: bytes) -> bytes:
    """The whole answer, over a connection that takes little at once and pauses at first."""
    parts = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((parts.hostname, parts.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            if len(received) < 64 << 10:
                time.sleep(0.005)  # the road is full long before the end; nothing waits for this
            data = client.recv(4096)
            assert data, bytes(received[-300:])
            received += data
    return bytes(received)


def unframed(raw: bytes) -> bytes:
    """The body of a chunked answer."""
    rest, body = raw.partition(b"\r\n\r\n")[2], b""
    while size := int(rest[: rest.index(b"\r\n")], 16):
        at = rest.index(b"\r\n") + 2
        body += rest[at : at + size]
        rest = rest[at + size + 2 :]
    return body


def test_slow_client_gets_every_id_once_and_in_order(tmp_path: Path) -> None:
    with Platform(tmp_path) as platform:
        add_model(platform.server, "m", write_simulated(tmp_path / "m"))
        request = {
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": NUM_TOKENS,
            "stream": True,
            "ignore_eos": True,
        }
        body = unframed(read_slowly(platform.url, json.dumps(request).encode()))
    assert body.endswith(sse.DONE)
    events = [block for block in body.split(b"\n\n") if b"data: {" in block]
    seqs = [int(block.split(b"id: ")[1].split(b"\n")[0]) for block in events]
    ids = [json.loads(block.split(b"data: ")[1])["choices"][0]["token_ids"] for block in events]
    assert seqs == sorted(set(seqs)) and seqs[-1] == NUM_TOKENS
    assert sum(map(len, ids)) == NUM_TOKENS
