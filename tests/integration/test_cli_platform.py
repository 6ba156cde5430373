# SPDX-License-Identifier: Apache-2.0
"""The commands of `sllm` against a running platform, as a user types them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from serverlessllm.cli.exit_codes import FAILED, INTERRUPTED, OK, USAGE
from serverlessllm.cli.main import run
from support.model_dirs import write_simulated
from support.platform import Platform

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("cli")
    with Platform(home, engine_slots="1") as running:
        running.add("org/sim", write_simulated(home / "sim"))
        yield running


@pytest.fixture(autouse=True)
def address(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_URL", platform.url)
    monkeypatch.delenv("SLLM_API_KEY", raising=False)


def _document(capsys: Capture, *arguments: str) -> dict[str, object]:
    assert run([*arguments, "--json"]) == OK
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_add_of_a_relative_path_is_ready_listed_and_removed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    write_simulated(platform.home / "second", variant=2)
    monkeypatch.chdir(platform.home)
    assert run(["model", "add", "second", "second", "--engine", "simulated", "--option", "load_s=0"]) == OK
    assert "second is ready" in capsys.readouterr().err
    assert run(["model", "list"]) == OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", "org/sim", "second"]
    assert run(["model", "rm", "second", "--yes"]) == OK
    assert run(["model", "show", "second"]) == FAILED


def test_removal_that_is_not_confirmed_keeps_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(["model", "rm", "org/sim"]) == INTERRUPTED
    assert _document(capsys, "model", "show", "org/sim")["state"] == "ready"


def test_add_of_a_source_that_is_none_fails_with_the_reason(capsys: Capture) -> None:
    assert run(["model", "add", "ghost", "/nowhere/at/all"]) == FAILED
    assert "/nowhere/at/all" in capsys.readouterr().err
    run(["model", "rm", "ghost", "--yes"])


def test_chat_wakes_the_model_and_draws_its_road(capsys: Capture) -> None:
    run(["stop", "org/sim"])
    capsys.readouterr()
    assert run(["chat", "org/sim", "Hello", "--max-tokens", "8", "--timeline"]) == OK
    out, err = capsys.readouterr()
    assert out.strip()
    assert "warm start" in err and "bind" in err and "first_token" in err


def test_chat_as_json_has_text_ids_usage_and_timeline(capsys: Capture) -> None:
    arguments = ("chat", "org/sim", "Hello", "--max-tokens", "8", "--seed", "7", "--system", "Be brief.")
    first, second = (_document(capsys, *arguments) for _ in range(2))
    assert isinstance(first["token_ids"], list) and len(first["token_ids"]) == 8
    assert (first["token_ids"], first["text"]) == (second["token_ids"], second["text"])
    assert first["finish_reason"] == "length" and first["timeline"] is not None


def test_chat_with_an_unknown_model_says_how_to_list_them(capsys: Capture) -> None:
    assert run(["chat", "nope", "Hello"]) == FAILED
    assert "sllm model list" in capsys.readouterr().err


def test_ps_shows_the_replica_and_its_agent(capsys: Capture) -> None:
    assert run(["chat", "org/sim", "Hello", "--max-tokens", "1"]) == OK
    capsys.readouterr()
    assert run(["ps"]) == OK
    out = capsys.readouterr().out
    assert "org/sim" in out and "ready" in out and "agent-" in out


def test_explain_tells_phases_and_decision_of_the_last_request(capsys: Capture) -> None:
    _document(capsys, "chat", "org/sim", "Hello", "--max-tokens", "2")
    requests = _document(capsys, "request", "list", "--limit", "1")["requests"]
    assert isinstance(requests, list)
    assert run(["request", "explain", requests[0]["request_id"]]) == OK
    out = capsys.readouterr().out
    assert "org/sim @" in out and "done (200)" in out and "first token after" in out
    assert run(["request", "explain", "chatcmpl-none"]) == FAILED


def test_doctor_finds_the_running_server(platform: Platform, capsys: Capture) -> None:
    document = _document(capsys, "doctor", "--data-dir", str(platform.home))
    checks = document["checks"]
    assert isinstance(checks, list) and platform.url in checks[-1]["finding"]


def test_key_once_made_is_needed_and_revoked_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run(["key", "create", "me", "--role", "admin"]) == OK
    secret = capsys.readouterr().out.strip()
    assert run(["ps"]) == FAILED
    assert "SLLM_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("SLLM_API_KEY", secret)
    assert run(["key", "list"]) == OK
    assert "admin" in capsys.readouterr().out
    assert run(["key", "revoke", "me", "--yes"]) == OK
    monkeypatch.delenv("SLLM_API_KEY")
    assert run(["ps"]) == OK


def test_weights_are_shown_changed_and_refused_in_words(platform: Platform, capsys: Capture) -> None:
    assert run(["scheduler", "weights", "set", "queue=2", "evict=0"]) == OK
    capsys.readouterr()
    assert _document(capsys, "scheduler", "weights", "get") == {
        "w_queue": 2.0,
        "w_load": 1.0,
        "w_kv": 1.0,
        "w_evict": 0.0,
    }
    assert run(["scheduler", "weights", "set", "queue=1", "evict=1"]) == OK
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows == [["TERM", "WEIGHT"], ["queue", "1"], ["load", "1"], ["kv", "1"], ["evict", "1"]]
    for malformed in ("speed=1", "queue", "queue=-1", "queue=nan"):
        assert run(["scheduler", "weights", "set", malformed]) == USAGE
        assert malformed in capsys.readouterr().err


def test_decisions_are_listed_for_people_and_one_a_line_for_programs(
    platform: Platform, capsys: Capture
) -> None:
    assert run(["chat", "org/sim", "hello", "--max-tokens", "2"]) == OK
    capsys.readouterr()
    assert run(["scheduler", "decisions"]) == OK
    assert "org/sim" in capsys.readouterr().out
    assert run(["scheduler", "decisions", "--json"]) == OK
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = records[-1]
    assert (last["model"], last["kind"], last["outcome"], last["version"]) == ("org/sim", "wake", "ready", 2)
    assert set(last["candidates"][0]["terms_s"]) == {"queue", "load", "kv", "evict", "failures"}
