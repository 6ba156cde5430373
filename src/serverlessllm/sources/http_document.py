# SPDX-License-Identifier: Apache-2.0
"""Whole bodies over http(s), from front to back: short documents into memory, and files of servers without ranges."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urljoin

from serverlessllm.errors import CorruptDataError, ModelLoadError, PayloadTooLargeError, UnreachableError
from serverlessllm.sources.http import display_name
from serverlessllm.sources.http_answer import read_answer
from serverlessllm.sources.http_connection import Exchange, HttpAccess, failure, follow

BLOCK_BYTES: Final = 1 << 20


@contextmanager
def _opened(url: str, access: HttpAccess) -> Iterator[Exchange]:
    """The answer to a plain GET with status 200. Raises: as `read_answer`, and for a broken connection."""
    name = display_name(url)
    exchange = follow(url, access, {}, name=name)
    try:
        headers = {key.lower(): value for key, value in exchange.response.getheaders()}
        read_answer(exchange.response.status, headers, name=name)
        if exchange.response.status != 200:
            raise ModelLoadError(f"{name}: HTTP {exchange.response.status}", source="ingest")
        yield exchange
    except (OSError, http.client.HTTPException) as error:
        raise failure(exchange.connection.target, name, error) from error
    finally:
        exchange.close()


def read_document(url: str, access: HttpAccess, *, max_bytes: int) -> tuple[bytes, str]:
    """The body, and the URL of the directory that relative links in it count from.

    Raises: PayloadTooLargeError above `max_bytes`; CorruptDataError when it does not exist.
    """
    with _opened(url, access) as exchange:
        body = exchange.response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise PayloadTooLargeError(
                f"{display_name(url)} is larger than {max_bytes} bytes", param="source"
            )
        target = exchange.connection.target
        return body, urljoin(f"{target.scheme}://{target.netloc}{target.path}", ".")


def stream(url: str, access: HttpAccess, write: Callable[[bytes], object], *, max_bytes: int) -> int:
    """Pass the whole body to `write`, block by block; returns its size.

    Raises: PayloadTooLargeError above `max_bytes`; UnreachableError when it ends early; what `write` raises.
    """
    name = display_name(url)
    done = 0
    with _opened(url, access) as exchange:
        expected = exchange.response.length
        while block := exchange.response.read(BLOCK_BYTES):
            done += len(block)
            if done > max_bytes:
                raise PayloadTooLargeError(f"{name} is larger than {max_bytes} bytes", param="source")
            try:
                write(block)
            except OSError as error:
                raise ModelLoadError(f"{name}: cannot store it: {error.strerror}", source="ingest") from error
        if expected is not None and done < expected:
            raise UnreachableError(
                f"{name}: the connection ended after {done} of {expected} bytes", source="ingest"
            )
    if done == 0:
        raise CorruptDataError(f"{name} is empty", param="source")
    return done
