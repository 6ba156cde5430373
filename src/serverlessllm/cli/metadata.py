# SPDX-License-Identifier: Apache-2.0
"""`sllm metadata`: the store's lasting facts into a file, and back. Talks to the store, not to a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.process_command import process_params
from serverlessllm.cli.serve import effective_config
from serverlessllm.cli.setting_options import SettingCommand
from serverlessllm.cli.terminal import note, print_json
from serverlessllm.errors import ConfigError

if TYPE_CHECKING:
    from serverlessllm.config import Config
    from serverlessllm.metadata.store import MetadataStore

T = TypeVar("T")


@click.group(epilog=exit_codes.EPILOG)
def metadata() -> None:
    """Back up and restore models, keys and drains; move them from one store to another."""


@metadata.command(
    cls=SettingCommand,
    params=[click.Argument(["file"], type=click.Path(path_type=Path)), *process_params("metadata", short={})],
    epilog=exit_codes.EPILOG,
)
def dump(file: Path, config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Write the store's lasting facts to FILE, which only you may read. Servers may go on."""
    from serverlessllm.metadata import backup

    lines = _with_store(effective_config(config_path, flags), backup.dump)
    part = file.with_name(f"{file.name}.part")
    try:
        part.touch(mode=0o600)
        part.write_text("\n".join(lines) + "\n")
        part.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
    _say(as_json, len(lines) - 1, f"{len(lines) - 1} entries in {file}")


@metadata.command(
    cls=SettingCommand,
    params=[
        click.Argument(["file"], type=click.Path(path_type=Path)),
        click.Option(["--replace"], is_flag=True, help="Write over entries that are there already."),
        *process_params("metadata", short={}),
    ],
    epilog=exit_codes.EPILOG,
)
def restore(file: Path, replace: bool, config_path: Path | None, as_json: bool, **flags: object) -> None:
    """Write the facts of FILE into the store. Stop the orchestrators first."""
    from serverlessllm.metadata import backup

    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    config = effective_config(config_path, flags)
    num = _with_store(config, lambda store: backup.restore(store, lines, replaces=replace))
    _say(as_json, num, f"{num} entries written; start the orchestrators")


def _with_store(config: Config, work: Callable[[MetadataStore], Awaitable[T]]) -> T:
    from serverlessllm.metadata.open import open_store

    async def run() -> T:
        store = await open_store(config.metadata, config.data_path)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _say(as_json: bool, num_entries: int, text: str) -> None:
    if as_json:
        print_json({"num_entries": num_entries})
    else:
        note(text)
