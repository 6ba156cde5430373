# SPDX-License-Identifier: Apache-2.0
"""The entry point of `sllm`: finds the command, runs it, turns what went wrong into one line and a status.

A command's module is imported when the command is called, and what is heavy only inside it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from serverlessllm import __version__
from serverlessllm.cli import exit_codes
from serverlessllm.cli.terminal import print_error
from serverlessllm.errors import AuthenticationError, PermissionDeniedError, SllmError

COMMANDS: Final = {
    "serve": "serve:serve",
    "orchestrator": "orchestrator:orchestrator",
    "agent": "agent:agent",
    "ingest": "ingest:ingest",
    "model": "model:model",
    "stop": "stop:stop",
    "chat": "chat:chat",
    "ps": "ps:ps",
    "top": "top:top",
    "disk": "disk:disk",
    "node": "node:node",
    "scheduler": "scheduler:scheduler",
    "key": "key:key",
    "metadata": "metadata:metadata",
    "request": "request:request",
    "checkpoint": "checkpoint:checkpoint",
    "tune": "tune:tune",
    "doctor": "doctor:doctor",
    "bench": "bench:bench",
}
"""Command → `module:attribute` in this package, in the order in which `--help` lists them."""

HINTS: Final[dict[type[SllmError], str]] = {
    AuthenticationError: "pass a key with --api-key or SLLM_API_KEY",
    PermissionDeniedError: "use a key with the admin role (`sllm key create NAME --role admin`)",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(f"serverlessllm.cli.{module}"), attribute)
        return command if isinstance(command, click.Command) else None


@click.group(
    cls=LazyGroup, epilog=exit_codes.EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="sllm", message="%(prog)s %(version)s")
def cli() -> None:
    """ServerlessLLM: many language models on few machines.

    Start the platform with `sllm serve`, register a model with `sllm model add`, talk to it with `sllm chat`.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status. Errors are one line on stderr, never a traceback."""
    try:
        status = cli.main(args=list(arguments), prog_name="sllm", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "sllm"
        print_error(f"{error.format_message().rstrip('.')}; see `{path} --help`")
        return exit_codes.USAGE
    except click.ClickException as error:
        print_error(error.format_message())
        return exit_codes.FAILED
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return exit_codes.INTERRUPTED
    except SllmError as error:
        print_error(_with_hint(error))
        return exit_codes.exit_code(error)
    except BrokenPipeError:
        # The reader of our pipe left; the interpreter would complain again while it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILED
    return status if isinstance(status, int) else exit_codes.OK


def _with_hint(error: SllmError) -> str:
    hint = next((text for cls, text in HINTS.items() if isinstance(error, cls)), None)
    return f"{error.message.rstrip('.')}; {hint}" if hint else error.message


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
