# SPDX-License-Identifier: Apache-2.0
"""Headers of `/infer`."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.errors import InvalidRequestError, WireError
from serverlessllm.wire.agent import InferHeaders

HEADERS = InferHeaders(
    request_id="chatcmpl-1",
    created_s=1_700_000_000,
    endpoint="chat",
    model="org/m",
    revision="0" * 32,
    attempt=12,
    deadline_ms=0,
    tenant="default",
    priority=-1,
    cache_salt="",
    seed=2**63 - 1,
)


def test_headers_survive_the_wire() -> None:
    assert InferHeaders.decode(HEADERS.encode()) == HEADERS
    adapted = msgspec.structs.replace(HEADERS, adapter="a" * 32, adapter_artifact="/data/ü b/a")
    assert InferHeaders.decode(adapted.encode()) == adapted
    with pytest.raises(WireError, match="x-sllm-adapter"):
        InferHeaders.decode(HEADERS.encode() | {"x-sllm-adapter": "../etc"})


@pytest.mark.parametrize("name", [name for name in HEADERS.encode() if name != "x-sllm-wire"])
def test_missing_header_is_named(name: str) -> None:
    headers = HEADERS.encode()
    del headers[name]
    with pytest.raises(WireError, match=name):
        InferHeaders.decode(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-sllm-endpoint", "audio"),
        ("x-sllm-revision", "../../etc"),
        ("x-sllm-attempt", "1.5"),
        ("x-sllm-attempt", "9" * 30),
        ("x-sllm-seed", ""),
    ],
)
def test_malformed_header_is_named(name: str, value: str) -> None:
    with pytest.raises(WireError, match=name):
        InferHeaders.decode(HEADERS.encode() | {name: value})


def test_model_that_is_no_name_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="x-sllm-model"):
        InferHeaders.decode(HEADERS.encode() | {"x-sllm-model": "a b"})
