# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md documents every metric that is declared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_page_is_what_the_declarations_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "metrics_page.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "metrics.md").read_text() == printed, (
        "run: python scripts/metrics_page.py --write"
    )
    assert "sllm_queue_length" in printed
