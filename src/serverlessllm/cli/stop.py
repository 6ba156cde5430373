# SPDX-License-Identifier: Apache-2.0
"""`sllm stop`: let a model sleep now."""

from __future__ import annotations

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_json


@click.command(epilog=exit_codes.EPILOG)
@click.argument("name", metavar="MODEL")
@click.option("--drop-bytes", is_flag=True, help="Free its memory too: the next start reads the disk.")
@server_options
def stop(session: Session, name: str, drop_bytes: bool) -> None:
    """Let MODEL sleep now, not after its keep-alive.

    Its weights stay in memory unless --drop-bytes is given; the next call wakes it.
    """
    with session.client() as client:
        num_unloaded = client.stop_model(name, drop_bytes=drop_bytes)
    if session.as_json:
        print_json({"model": name, "num_unloaded": num_unloaded})
    else:
        note(f"{name} sleeps" if num_unloaded else f"{name} was asleep already")
