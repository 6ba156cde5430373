# SPDX-License-Identifier: Apache-2.0
"""`sllm serve`: the whole platform in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from serverlessllm.cli.process_command import EPILOG, announce, process_params, say_missing_engine
from serverlessllm.cli.setting_options import SettingCommand, parameter_name
from serverlessllm.config import environment, load, settings

if TYPE_CHECKING:
    from serverlessllm.config import Config


def effective_config(path: Path | None, flags: dict[str, object]) -> Config:
    """Defaults < file < environment < flags. `flags` are keyed as click passes them; None = not given."""
    named = environment("SLLM_CONFIG")
    file = path if path is not None else Path(named).expanduser() if named else None
    given = {
        key: flags[parameter_name(key)]
        for key, _, _ in settings()
        if flags.get(parameter_name(key)) is not None
    }
    return load(file, flags=given)


@click.command(
    cls=SettingCommand,
    params=process_params(),
    epilog=EPILOG,
)
def serve(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run the whole platform in this process, until Ctrl-C.

    Every setting has a flag; sizes take suffixes (512MiB, 4GiB).
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.serve import run

    say_missing_engine()
    run(
        config,
        ready=lambda url: announce(
            url, as_json, f"console   {url}/", f"OpenAI    {url}/v1", "stop with Ctrl-C"
        ),
    )
