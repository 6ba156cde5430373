# SPDX-License-Identifier: Apache-2.0
"""`sllm serve`: the whole platform in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.setting_options import SettingCommand, parameter_name, setting_options
from serverlessllm.cli.terminal import note, print_json
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


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url}, is_compact=True)
        return
    note(f"ready on {url}")
    note(f"  console   {url}/")
    note(f"  OpenAI    {url}/v1")
    note("  stop with Ctrl-C")


@click.command(
    cls=SettingCommand,
    params=[
        click.Option(
            ["--config", "config_path"],
            type=click.Path(path_type=Path),
            help="Settings in YAML, as config.example.yaml; else the file that SLLM_CONFIG names.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Announce the address as one line of JSON."),
        *setting_options(),
    ],
    epilog=f"A setting comes from: flag, else SLLM_<SECTION>_<KEY>, else file, else default. {exit_codes.EPILOG}",
)
def serve(config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Run the whole platform in this process, until Ctrl-C.

    Every setting has a flag; sizes take suffixes (512MiB, 4GiB).
    """
    config = effective_config(config_path, flags)
    from serverlessllm.app.serve import run

    run(config, ready=lambda url: _announce(url, as_json))
