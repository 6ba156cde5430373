# SPDX-License-Identifier: Apache-2.0
"""`sllm ingest`: the ingest service as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand, setting_options
from serverlessllm.cli.terminal import note, print_json

SHORT: Final = {"ingest.host": "--host", "ingest.port": "--port"}


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url}, is_compact=True)
        return
    note(f"ready on {url}")
    note(
        "  callers send x-sllm-secret (the file `secret` in the data directory), or a node's or admin's API key"
    )
    note("  stop with Ctrl-C; unfinished jobs go on at the next start")


@click.command(
    cls=SettingCommand,
    params=[
        click.Option(
            ["--config", "config_path"],
            type=click.Path(path_type=Path),
            help="Settings in YAML, as config.example.yaml; else the file that SLLM_CONFIG names.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Announce the address as one line of JSON."),
        *setting_options("ingest", "sources", "metadata", short=SHORT),
    ],
    epilog=f"A setting comes from: flag, else SLLM_<SECTION>_<KEY>, else file, else default. {exit_codes.EPILOG}",
)
def ingest(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run the ingest service in this process, until Ctrl-C: fetch checkpoints, convert them, publish artifacts.

    `sllm serve` has one in it; run this where fetching and converting should have a machine or a process of its own.
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.ingest import run

    run(config, ready=lambda url: _announce(url, as_json))
