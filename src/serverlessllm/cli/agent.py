# SPDX-License-Identifier: Apache-2.0
"""`sllm agent`: one node's agent as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand, setting_options
from serverlessllm.cli.terminal import note, print_json

SHORT: Final = {"agent.host": "--host", "agent.port": "--port"}


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url}, is_compact=True)
        return
    note(f"ready on {url}")
    note("  stop with Ctrl-C; orchestrators are told")


@click.command(
    cls=SettingCommand,
    params=[
        click.Option(
            ["--config", "config_path"],
            type=click.Path(path_type=Path),
            help="Settings in YAML, as config.example.yaml; else the file that SLLM_CONFIG names.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Announce the address as one line of JSON."),
        *setting_options("agent", "arena", "loader", "engine", "sources", "metadata", short=SHORT),
    ],
    epilog=f"A setting comes from: flag, else SLLM_<SECTION>_<KEY>, else file, else default. {exit_codes.EPILOG}",
)
def agent(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run this node's agent, until Ctrl-C: memory, loading, engines. It joins the cluster of its metadata store.

    Nodes share the secret (SLLM_SECRET, or the file `secret` in the data directory) and `metadata.url`.
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.agent import run

    run(config, ready=lambda url: _announce(url, as_json))
