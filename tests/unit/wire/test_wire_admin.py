# SPDX-License-Identifier: Apache-2.0
"""Bodies of `/admin`: what is refused, naming the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.admin import (
    AddModel,
    CreateKey,
    StopModel,
    parse_add_model,
    parse_create_key,
    parse_stop_model,
)

MODEL: dict[str, Any] = {"name": "org/m", "source": "/checkpoints/m"}


def test_model_takes_its_defaults() -> None:
    assert parse_add_model(json.dumps(MODEL).encode()) == AddModel("org/m", "/checkpoints/m")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "a//b"}, "name"),
        ({"name": 1}, "name"),
        ({"source": ""}, "source"),
        ({"source": "/a\0b"}, "source"),
        ({"source": "/" + "x" * 4096}, "source"),
        ({"engine": "tensorrt"}, "engine"),
        ({"dtype": "int8"}, "dtype"),
        ({"keep_alive_s": -0.1}, "keep_alive_s"),
        ({"options": {str(n): 1.0 for n in range(65)}}, "options"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_bad_model_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_add_model(json.dumps(MODEL | fields).encode())
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"name":"m"}', b"[" * 5000])
def test_body_that_is_no_model_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_add_model(body)


def test_key_is_for_inference_unless_told_otherwise() -> None:
    assert parse_create_key(b'{"name":"app"}') == CreateKey("app", "infer")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"name":""}', "name"),
        (b'{"name":"a\\u0007"}', "name"),
        (b'{"name":"a","role":"god"}', "role"),
        (b'{"name":"a","tenant":"a b"}', "tenant"),
    ],
)
def test_bad_key_names_the_field(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_create_key(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "drop_bytes"), [(b"", False), (b"{}", False), (b'{"drop_bytes":true}', True)]
)
def test_stop_keeps_the_bytes_unless_told_otherwise(body: bytes, drop_bytes: bool) -> None:
    assert parse_stop_model(body) == StopModel(drop_bytes)
