# SPDX-License-Identifier: Apache-2.0
"""`sllm agent`: one node's agent as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serverlessllm.cli.process_command import EPILOG, announce, process_params, say_missing_engine
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand

SHORT: Final = {"agent.host": "--host", "agent.port": "--port"}


@click.command(
    cls=SettingCommand,
    params=process_params(
        "agent", "arena", "loader", "engine", "sources", "metadata", "tls", "telemetry", short=SHORT
    ),
    epilog=EPILOG,
)
def agent(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run this node's agent, until Ctrl-C: memory, loading, engines. It joins the cluster of its metadata store.

    Nodes share the secret (SLLM_SECRET, or the file `secret` in the data directory) and `metadata.url`.
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.agent import run

    say_missing_engine()
    run(config, ready=lambda url: announce(url, as_json, "stop with Ctrl-C; orchestrators are told"))
