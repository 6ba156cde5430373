# SPDX-License-Identifier: Apache-2.0
"""ARCHITECTURE.md says what is on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed_tree() -> str:
    command = [sys.executable, str(ROOT / "scripts" / "architecture_tree.py")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_tree_on_the_page_is_the_tree_on_the_disk() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert printed_tree() in page, "run: python scripts/architecture_tree.py --write"


def test_every_module_says_what_it_is() -> None:
    for line in printed_tree().splitlines()[1:]:
        assert len(line.split()) > 2, f"no docstring: {line}"
