# SPDX-License-Identifier: Apache-2.0
"""`sllm orchestrator`: one front of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli.process_command import EPILOG, announce, process_params
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand

SHORT: Final = {
    "orchestrator.host": "--host",
    "orchestrator.port": "--port",
    "orchestrator.insecure": "--insecure",
}


@click.command(
    cls=SettingCommand,
    params=process_params("orchestrator", "ingest", "sources", "metadata", "tls", "telemetry", short=SHORT),
    epilog=EPILOG,
)
def orchestrator(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run one front of a cluster, until Ctrl-C: the OpenAI API, placement, scaling. Run as many as you like.

    It finds the agents in the metadata store (`metadata.url`); all share the secret (SLLM_SECRET).
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.orchestrator import run

    run(
        config,
        ready=lambda url: announce(
            url, as_json, "stop with Ctrl-C; agents and their models stay as they are"
        ),
    )
