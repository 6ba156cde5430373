# SPDX-License-Identifier: Apache-2.0
"""`sllm orchestrator`: one front of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand, setting_options
from serverlessllm.cli.terminal import note, print_json

SHORT: Final = {
    "orchestrator.host": "--host",
    "orchestrator.port": "--port",
    "orchestrator.insecure": "--insecure",
}


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url}, is_compact=True)
        return
    note(f"ready on {url}")
    note("  stop with Ctrl-C; agents and their models stay as they are")


@click.command(
    cls=SettingCommand,
    params=[
        click.Option(
            ["--config", "config_path"],
            type=click.Path(path_type=Path),
            help="Settings in YAML, as config.example.yaml; else the file that SLLM_CONFIG names.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Announce the address as one line of JSON."),
        *setting_options("orchestrator", "ingest", "sources", "metadata", short=SHORT),
    ],
    epilog=f"A setting comes from: flag, else SLLM_<SECTION>_<KEY>, else file, else default. {exit_codes.EPILOG}",
)
def orchestrator(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run one front of a cluster, until Ctrl-C: the OpenAI API, placement, scaling. Run as many as you like.

    It finds the agents in the metadata store (`metadata.url`); all share the secret (SLLM_SECRET).
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.orchestrator import run

    run(config, ready=lambda url: _announce(url, as_json))
