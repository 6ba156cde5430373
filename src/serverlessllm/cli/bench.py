# SPDX-License-Identifier: Apache-2.0
"""`sllm bench`: runs a benchmark of the checkout that this package is installed from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

import serverlessllm
from serverlessllm.cli import exit_codes
from serverlessllm.errors import ConfigError

BENCHMARKS: Final = {
    "agents": "agents",
    "burst": "burst",
    "cold-start": "cold_start",
    "engine": "engine",
    "fetch": "fetch",
    "gpu-cold-start": "gpu_cold_start",
    "load": "load",
    "migrate": "migrate",
    "placement": "placement",
    "proxy": "proxy",
    "stream-load": "stream_load",
}


def checkout(package: Path) -> Path:
    """The repository around this package. Raises ConfigError for an installed wheel, which has no benchmarks."""
    root = package.resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        raise ConfigError(
            "benchmarks run from a checkout of the repository, not from an installed wheel; "
            "clone it and `pip install -e '.[engine,bench]'`"
        )
    return root


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []}, epilog=exit_codes.EPILOG
)
@click.argument("name", type=click.Choice(list(BENCHMARKS)), metavar="NAME")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str, arguments: tuple[str, ...]) -> int:
    """Run a benchmark of this checkout.

    NAME is agents, burst, cold-start, engine, fetch, gpu-cold-start, load, migrate, placement, proxy or stream-load;
    ARGUMENTS go to it (try `sllm bench fetch --help`). It prints a table and, as its last line, one JSON object.
    """
    root = checkout(Path(serverlessllm.__file__).parent)
    path = root / "benchmarks" / BENCHMARKS[name] / "run.py"
    search = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, str(path), *arguments], env={**os.environ, "PYTHONPATH": search})
    return done.returncode if done.returncode >= 0 else exit_codes.FAILED
