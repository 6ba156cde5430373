# SPDX-License-Identifier: Apache-2.0
"""`sllm ingest`: the ingest service as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli.process_command import EPILOG, announce, process_params
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand

SHORT: Final = {"ingest.host": "--host", "ingest.port": "--port"}


@click.command(
    cls=SettingCommand,
    params=process_params("ingest", "sources", "metadata", "tls", short=SHORT),
    epilog=EPILOG,
)
def ingest(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run the ingest service in this process, until Ctrl-C: fetch checkpoints, convert them, publish artifacts.

    `sllm serve` has one in it; run this where fetching and converting should have a machine or a process of its own.
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.ingest import run

    run(
        config,
        ready=lambda url: announce(
            url,
            as_json,
            "callers send x-sllm-secret (the file `secret` in the data directory), or a node's or admin's API key",
            "stop with Ctrl-C; unfinished jobs go on at the next start",
        ),
    )
