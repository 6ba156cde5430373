# SPDX-License-Identifier: Apache-2.0
"""`sllm doctor`: will it run here, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import print_json

if TYPE_CHECKING:
    from serverlessllm.cli.checks import CheckResult
    from serverlessllm.config import Config

MARKS: Final = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command(epilog=exit_codes.EPILOG)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The settings to check, else SLLM_CONFIG.",
)
@click.option("--data-dir", help="The data directory to check.")
@server_options
def doctor(session: Session, config_path: Path | None, data_dir: str | None) -> int:
    """Check this machine: engine, huge pages, disk, memory, server. Exit 1 if something will not work."""
    from serverlessllm.cli.serve import effective_config

    config = effective_config(config_path, {"data_dir": data_dir})
    results = []
    for result in _run(config, session):
        results.append(result)
        if not session.as_json:
            _print(result)
    is_ok = all(result.status != "fail" for result in results)
    if session.as_json:
        print_json({"is_ok": is_ok, "checks": results})
    return exit_codes.OK if is_ok else exit_codes.FAILED


def _run(config: Config, session: Session) -> Iterator[CheckResult]:
    from serverlessllm.cli import checks

    local: tuple[Callable[[Config], CheckResult], ...] = (
        checks.check_engine,
        checks.check_huge_pages,
        checks.check_disk,
        checks.check_memory,
    )
    for check in local:
        yield check(config)
    yield checks.check_server(config, session)


def _print(result: CheckResult) -> None:
    mark, color = MARKS[result.status]
    click.echo(
        f"{click.style(mark, fg=color)} {click.style(result.name.ljust(10), bold=True)}  {result.finding}"
    )
    if result.advice:
        click.echo(f"  {' ' * 10}  → {result.advice}")
