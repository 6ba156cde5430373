# SPDX-License-Identifier: Apache-2.0
"""What the commands that run a process share: `serve`, `orchestrator`, `agent`, `ingest`. Starts nothing itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.setting_options import setting_options
from serverlessllm.cli.terminal import note, print_json

EPILOG: Final = (
    f"A setting comes from: flag, else SLLM_<SECTION>_<KEY>, else file, else default. {exit_codes.EPILOG}"
)


def process_params(*sections: str, short: Mapping[str, str] | None = None) -> list[click.Parameter]:
    """`--config`, `--json`, and a flag for each setting of `sections`; none names all.

    `short` as `setting_options` takes it.
    """
    return [
        click.Option(
            ["--config", "config_path"],
            type=click.Path(path_type=Path),
            help="Settings in YAML, as config.example.yaml; else the file that SLLM_CONFIG names.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Announce the address as one line of JSON."),
        *(setting_options(*sections) if short is None else setting_options(*sections, short=short)),
    ]


def say_missing_engine() -> None:
    """Where torch is not installed: what runs nevertheless, and what to install."""
    if importlib.util.find_spec("torch") is None:
        note(
            "no torch here: only the `simulated` engine runs; pip install 'serverlessllm[engine]' for models"
        )


def announce(url: str, as_json: bool, *lines: str) -> None:
    """Say that `url` answers: to a program, or to a person with `lines` about what can be done there."""
    if as_json:
        print_json({"url": url}, is_compact=True)
        return
    note(f"ready on {url}")
    for line in lines:
        note(f"  {line}")
