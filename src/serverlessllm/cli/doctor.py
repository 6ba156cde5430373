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
from serverlessllm.errors import SllmError

if TYPE_CHECKING:
    from serverlessllm.cli.checks import CheckResult
    from serverlessllm.config import Config

NAME_CHARS: Final = 13
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
    """Check this machine as a node, and the cluster that it belongs to. Exit 1 if something will not work."""
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
    from serverlessllm.cli import checks, cluster_checks, node_checks

    local: tuple[Callable[[Config], CheckResult], ...] = (
        checks.check_engine,
        node_checks.check_driver,
        checks.check_huge_pages,
        node_checks.check_shared_memory,
        checks.check_disk,
        checks.check_memory,
        node_checks.check_limits,
        node_checks.check_privileges,
        node_checks.check_clock,
        node_checks.check_ports,
        cluster_checks.check_store,
        cluster_checks.check_s3,
    )
    for check in local:
        yield check(config)
    yield checks.check_server(config, session)
    yield from _cluster(session)


def _cluster(session: Session) -> Iterator[CheckResult]:
    """What a server tells of its nodes; nothing where none answers, which `server` has said."""
    from serverlessllm.cli import cluster_checks

    try:
        with session.client() as client:
            agents = client.agents()
    except SllmError:
        return
    yield cluster_checks.check_agents(agents)
    yield cluster_checks.check_versions(agents)
    yield cluster_checks.check_clocks(session.url)


def _print(result: CheckResult) -> None:
    mark, color = MARKS[result.status]
    click.echo(
        f"{click.style(mark, fg=color)} {click.style(result.name.ljust(NAME_CHARS), bold=True)}  {result.finding}"
    )
    if result.advice:
        click.echo(f"  {' ' * NAME_CHARS}  → {result.advice}")
