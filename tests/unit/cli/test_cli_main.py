# SPDX-License-Identifier: Apache-2.0
"""What every command has in common: exit status, one-line errors, JSON errors, a quick start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from serverlessllm.cli import exit_codes
from serverlessllm.cli.bench import checkout
from serverlessllm.cli.main import COMMANDS, cli, run
from serverlessllm.errors import ConfigError, NotFoundError, UnreachableError

NOBODY = "http://127.0.0.1:1"
HEAVY = ("httpx", "rich", "aiohttp", "msgspec", "numpy", "yaml", "torch")


def _commands(group: click.Group) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        nested = _commands(command) if isinstance(command, click.Group) else []
        found += [(name, *rest) for rest in nested] or [(name,)]
    return found


def test_version_imports_nothing_heavy() -> None:
    code = "import sys; from serverlessllm.cli.main import run; run(['--version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert version.startswith("sllm ")
    assert not set(HEAVY) & set(modules.split())


@pytest.mark.parametrize("path", [p for p in _commands(cli) if p != ("bench",)], ids=" ".join)
def test_help_of_every_command_tells_the_exit_codes(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == exit_codes.OK
    assert "130 interrupted" in " ".join(capsys.readouterr().out.split())


def test_every_command_of_the_list_exists() -> None:
    assert {path[0] for path in _commands(cli)} == set(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["model", "add", "x"], ["chat", "m", "p", "--temperature", "9"], ["serve", "--prot", "1"]],
)
def test_wrong_usage_is_one_line_that_names_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == exit_codes.USAGE
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("sllm: ") and "--help`" in err


def test_nobody_at_the_address_is_status_3_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ps", "--url", NOBODY]) == exit_codes.UNREACHABLE
    err = capsys.readouterr().err
    assert NOBODY in err and "sllm serve" in err and err.count("\n") == 1


def test_failure_with_json_is_one_document_beside_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model", "list", "--url", NOBODY, "--json"]) == exit_codes.UNREACHABLE
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "unreachable"
    assert err.startswith("sllm: cannot reach")


def test_address_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_URL", "http://127.0.0.1:2")
    assert run(["key", "list"]) == exit_codes.UNREACHABLE
    assert "http://127.0.0.1:2" in capsys.readouterr().err


def test_address_that_is_no_url_is_status_2() -> None:
    assert run(["ps", "--url", "localhost"]) == exit_codes.USAGE


def test_status_of_an_error_is_by_what_can_be_done() -> None:
    assert exit_codes.exit_code(UnreachableError("x")) == exit_codes.UNREACHABLE
    assert exit_codes.exit_code(ConfigError("x")) == exit_codes.USAGE
    assert exit_codes.exit_code(NotFoundError("x")) == exit_codes.FAILED


def test_bench_of_an_installed_wheel_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkout") as caught:
        checkout(tmp_path / "site-packages" / "serverlessllm")
    assert exit_codes.exit_code(caught.value) == exit_codes.USAGE


def test_bench_passes_its_arguments_to_the_benchmark(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "cold-start", "--help"]) == exit_codes.OK
    assert "--rounds" in capfd.readouterr().out
