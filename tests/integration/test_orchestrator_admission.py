# SPDX-License-Identifier: Apache-2.0
"""Who may call what, and what hostile requests are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.errors import ConfigError
from support.fake_agent import FakeAgent
from support.front import Front, eventually, running_front

JSON = {"content-type": "application/json"}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with running_front(tmp_path, [FakeAgent()], max_body_bytes=64 << 10) as front:
        yield front


async def make_key(front: Front, name: str, role: str, key: str = "") -> dict[str, str]:
    """A new key as a header."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = await front.http.post("/admin/keys", json={"name": name, "role": role}, headers=headers)
    assert reply.status_code == 201, reply.text
    return {"authorization": f"Bearer {reply.json()['secret']}"}


async def test_without_keys_everything_on_loopback_is_allowed(front: Front) -> None:
    assert (await front.chat()).status_code == 200
    assert (await front.http.get("/admin/models")).status_code == 200


async def test_once_a_key_exists_it_is_required(front: Front) -> None:
    await make_key(front, "root", "admin")
    reply = await front.chat()
    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    assert (await front.chat({"authorization": "Bearer sk-sllm-wrong"})).status_code == 401
    assert (await front.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("role", "v1", "admin"), [("admin", 200, 200), ("infer", 200, 403), ("node", 403, 403)]
)
async def test_role_decides_what_a_key_may_call(front: Front, role: str, v1: int, admin: int) -> None:
    root = await make_key(front, "root", "admin")
    key = await make_key(front, "other", role, root["authorization"].removeprefix("Bearer "))
    assert (await front.chat(key)).status_code == v1
    assert (await front.http.get("/admin/models", headers=key)).status_code == admin


async def test_revoked_key_is_refused(front: Front) -> None:
    root = await make_key(front, "root", "admin")
    other = await make_key(front, "other", "infer", root["authorization"].removeprefix("Bearer "))
    listed = (await front.http.get("/admin/keys", headers=root)).json()["keys"]
    assert [key["name"] for key in listed] == ["root", "other"] and "secret" not in listed[0]
    await front.http.delete(f"/admin/keys/{listed[1]['id']}", headers=root)
    assert (await front.chat(other)).status_code == 401


async def test_first_key_must_be_an_admin_key(front: Front) -> None:
    reply = await front.http.post("/admin/keys", json={"name": "first", "role": "infer"})
    assert reply.status_code == 409 and reply.json()["error"]["param"] == "role"


async def test_last_admin_key_is_not_revoked_while_others_exist(front: Front) -> None:
    root = await make_key(front, "root", "admin")
    await make_key(front, "other", "infer", root["authorization"].removeprefix("Bearer "))
    [first, _] = (await front.http.get("/admin/keys", headers=root)).json()["keys"]
    assert (await front.http.delete(f"/admin/keys/{first['id']}", headers=root)).status_code == 409


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()]) as front:
        key = await make_key(front, "root", "admin")
    async with running_front(tmp_path, [FakeAgent()]) as front:
        assert (await front.chat()).status_code == 401
        assert (await front.chat(key)).status_code == 200


async def test_public_address_without_keys_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="insecure"):
        async with running_front(tmp_path, [FakeAgent()], host="0.0.0.0"):
            pass


async def test_public_address_is_allowed_when_insecure(tmp_path: Path) -> None:
    async with running_front(tmp_path, [FakeAgent()], host="0.0.0.0", insecure=True) as front:
        assert (await front.chat()).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8343", "127.0.0.1.evil.example", "", "[::", "a@b"]
)
async def test_foreign_host_is_refused(front: Front, host: str) -> None:
    reply = await front.chat({"host": host})
    assert reply.status_code == 403 and reply.json()["error"]["param"] == "host"


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:8343", "models.example"])
async def test_own_and_allowed_hosts_are_accepted(tmp_path: Path, host: str) -> None:
    async with running_front(tmp_path, [FakeAgent()], allowed_hosts=("models.example",)) as front:
        assert (await front.chat({"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
async def test_foreign_origin_is_refused(front: Front, origin: str) -> None:
    reply = await front.chat({"origin": origin})
    assert reply.status_code == 403 and reply.json()["error"]["param"] == "origin"


async def test_own_origin_is_accepted(front: Front) -> None:
    assert (await front.chat({"origin": front.server.url})).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_state_changes_take_json_only(front: Front, kind: str) -> None:
    body = json.dumps(front.chat_body()).encode()
    reply = await front.http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert reply.status_code == 415


async def test_body_above_its_bound_is_413(front: Front) -> None:
    messages = [{"role": "user", "content": "x" * (65 << 10)}]
    assert (await front.chat(messages=messages)).status_code == 413


async def test_chunked_body_above_its_bound_is_413(front: Front) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    reply = await front.http.post("/v1/chat/completions", content=endless(), headers=JSON)
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"n": 17}, "n"),
        ({"model": "../etc/passwd"}, "model"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
async def test_bad_field_is_400_naming_it_and_wakes_nothing(
    front: Front, fields: dict[str, Any], param: str
) -> None:
    reply = await front.chat(**fields)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param
    assert front.agent.loads == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"model":NaN}'])
async def test_hostile_body_is_400(front: Front, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/admin/models", "/admin/keys"):
        reply = await front.http.post(path, content=body, headers=JSON)
        assert reply.status_code == 400, (path, reply.text)
        assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_model_is_404(front: Front) -> None:
    reply = await front.chat(model="nobody/knows")
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "model_not_found"


async def test_unknown_path_and_wrong_method_have_openais_shape(front: Front) -> None:
    missing = await front.http.get("/v1/nothing")
    wrong = await front.http.delete("/v1/chat/completions")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "not_found"
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"


async def test_bad_embeddings_request_is_refused_before_a_wake(front: Front) -> None:
    reply = await front.http.post("/v1/embeddings", json={"model": "org/m", "input": []})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "input"
    unknown = await front.http.post("/v1/embeddings", json={"model": "nobody", "input": "x"})
    assert unknown.status_code == 404


async def test_probes_answer_for_any_host(front: Front) -> None:
    reply = await front.http.get("/readyz", headers={"host": "10.0.0.7:8343"})
    assert reply.status_code == 200
    await front.agent.stop()
    await eventually(lambda: not front.orchestrator.agents.alive())
    assert (await front.http.get("/readyz")).status_code == 503


async def test_console_is_served_with_a_strict_policy(front: Front) -> None:
    page = await front.http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    script = await front.http.get("/console/app.js")
    again = await front.http.get("/console/app.js", headers={"if-none-match": script.headers["etag"]})
    assert (script.status_code, again.status_code) == (200, 304)
    assert (await front.http.get("/console/__init__.py")).status_code == 404
