# SPDX-License-Identifier: Apache-2.0
"""`sllm model pull`: bring a remote model's bytes before anybody calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_json
from serverlessllm.cli.units import bytes_text

if TYPE_CHECKING:
    from serverlessllm.wire.admin import ModelView


@click.command(epilog=exit_codes.EPILOG)
@click.argument("name")
@server_options
def pull(session: Session, name: str) -> None:
    """Fetch and convert the remote model NAME now.

    Ctrl-C stops the fetch, unless others wait for it; what has arrived is kept for the next time.
    """
    from serverlessllm.cli.progress import ByteProgress

    with session.client() as client, ByteProgress(f"pulling {name}", is_shown=not session.as_json) as bar:

        def draw(view: ModelView) -> None:
            if view.progress is not None:
                bar.describe(f"{view.progress.phase} {name}")
                bar.update(view.progress.done_bytes, view.progress.total_bytes)

        view = client.pull_model(name, on_progress=draw)
    if session.as_json:
        print_json(view)
    else:
        note(f"{name} is here: {bytes_text(view.nbytes)}, revision {view.revision}; try `sllm chat {name}`")
