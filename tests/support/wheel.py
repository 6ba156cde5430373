# SPDX-License-Identifier: Apache-2.0
"""Our wheel, built as a release builds it, and a virtual environment that has nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
PARTS: Final = ("pyproject.toml", "README.md", "LICENSE")


def build_wheel(directory: Path) -> Path:
    """Built from a copy, so that nothing appears in the checkout."""
    source = directory / "source"
    shutil.copytree(
        REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in PARTS:
        shutil.copy(REPOSITORY / name, source / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(directory),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = directory.glob("serverlessllm-*.whl")
    return wheel


class CleanEnvironment:
    """A new virtual environment; `pip` and `run` use it alone, not the checkout."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=True, clear=True)
        self.python = directory / "bin" / "python"
        self.sllm = directory / "bin" / "sllm"
        self.env = {"PATH": f"{directory / 'bin'}:/usr/bin:/bin:/usr/sbin", "HOME": str(directory)}

    def pip(self, *arguments: str) -> None:
        """Raises CalledProcessError when it fails; its errors are shown."""
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "-c", str(REPOSITORY / "constraints.txt"), *arguments], check=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, in an empty place."""
        return subprocess.run(
            arguments, env=self.env, cwd=self.env["HOME"], capture_output=True, text=True, check=False
        )
