# SPDX-License-Identifier: Apache-2.0
"""What a call puts on the wire, and how answers and failures come back typed. No server: bytes only."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from serverlessllm.errors import (
    AuthenticationError,
    ConfigError,
    ModelNotFoundError,
    QueueFullError,
    SllmError,
    WireError,
)
from serverlessllm.sdk import calls
from serverlessllm.sdk.request import RequestBuilder, unreachable
from serverlessllm.wire.admin import Stopped

ERROR_OF_STATUS = {401: AuthenticationError, 404: ModelNotFoundError, 429: QueueFullError}


def _response(status: int, content: bytes, **headers: str) -> httpx.Response:
    request = httpx.Request("GET", "http://sllm.test/admin/models")
    return httpx.Response(status, content=content, headers=headers, request=request)


def test_request_carries_url_key_and_json_body() -> None:
    request = RequestBuilder("http://host:1/", "sk-1").build(
        calls.add_model("a/b", "/m.gguf", {"dtype": None})
    )
    assert (request.method, str(request.url)) == ("POST", "http://host:1/admin/models")
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["content-type"] == "application/json"
    assert msgspec.json.decode(request.content)["name"] == "a/b"


def test_names_are_quoted_in_paths_but_keep_their_slashes() -> None:
    request = RequestBuilder().build(calls.get_model("org/é ?#%2e"))
    assert request.url.raw_path == b"/admin/models/org/%C3%A9%20%3F%23%252e"


def test_chat_parameters_that_are_none_are_left_to_the_server() -> None:
    call = calls.chat("m", [{"role": "user", "content": "hi"}], {"temperature": 0.0, "seed": None})
    body = msgspec.json.decode(RequestBuilder().build(call).content)
    assert body["temperature"] == 0.0 and body["stream"] is True
    assert "seed" not in body


@pytest.mark.parametrize("url", ["", "host:8343", "ftp://host", "http://", "http://[::1"])
def test_base_url_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="not a URL"):
        RequestBuilder(url)


def test_key_with_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="API key"):
        RequestBuilder(api_key="a\r\nx: y")


def test_loopback_is_called_without_proxy_and_other_hosts_with() -> None:
    assert not RequestBuilder("http://127.0.0.1:8343").trust_env
    assert RequestBuilder("http://gpu7:8343").trust_env


@pytest.mark.parametrize("status", ERROR_OF_STATUS)
def test_error_body_comes_back_as_its_class(status: int) -> None:
    sent = ERROR_OF_STATUS[status]("why")
    with pytest.raises(ERROR_OF_STATUS[status], match="why"):
        calls.list_models().read(_response(status, msgspec.json.encode(sent.as_openai())))


def test_retry_after_is_kept() -> None:
    body = msgspec.json.encode(QueueFullError("full").as_openai())
    with pytest.raises(QueueFullError) as caught:
        calls.list_models().read(_response(429, body, **{"retry-after": "7"}))
    assert caught.value.retry_after_s == 7.0


def test_error_page_of_another_server_names_the_address() -> None:
    with pytest.raises(SllmError, match=r"sllm\.test.*HTTP 502.*is it a ServerlessLLM server"):
        calls.list_models().read(_response(502, b"<html>bad gateway</html>"))


def test_answer_of_another_shape_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="unexpected form"):
        calls.list_models().read(_response(200, b'{"object":"list"}'))


def test_answer_of_our_shape_is_typed() -> None:
    assert calls.stop_model("m", False).read(_response(200, b'{"num_unloaded":2}')) == Stopped(2)


def test_refused_connection_says_how_to_start_a_server() -> None:
    error = unreachable("http://127.0.0.1:1", httpx.ConnectError("refused"))
    assert "sllm serve" in error.message and "http://127.0.0.1:1" in error.message
