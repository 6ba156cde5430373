# SPDX-License-Identifier: Apache-2.0
"""The demo model's file, and checkpoints that differ from it by name only."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from benchmarks._harness.hf_export import export

from serverlessllm.ingest.convert import convert

ROOT = Path(__file__).resolve().parents[2]


def demo_gguf() -> Path:
    """The file that `make demo-model` fetched; without it the test is skipped, in CI it fails."""
    found = next((ROOT / ".demo" / "model").glob("*.gguf"), None)
    if found is not None:
        return found
    reason = "the demo model is not here: run `make demo-model`"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def _exported(home: Path) -> Path:
    report = convert(demo_gguf(), home / "artifacts", dtype=None, on_progress=lambda _: None)
    return export(Path(report.directory), home / "hf")


def variant_sources(home: Path, number: int) -> list[Path]:
    """`number` Hugging Face directories that share one weights file and differ in a field of config.json."""
    original = _exported(home)
    sources = []
    for index in range(number):
        directory = home / f"variant-{index}"
        directory.mkdir()
        for path in original.iterdir():
            (directory / path.name).symlink_to(path)
        config = json.loads((original / "config.json").read_text())
        (directory / "config.json").unlink()
        (directory / "config.json").write_text(json.dumps({**config, "variant": index}))
        sources.append(directory)
    return sources
