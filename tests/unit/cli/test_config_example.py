# SPDX-License-Identifier: Apache-2.0
"""`config.example.yaml` is what the code declares."""

from __future__ import annotations

from pathlib import Path

from serverlessllm.cli.config_example import example_yaml
from serverlessllm.config import Config, load, settings

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"


def test_committed_example_equals_the_generated_one() -> None:
    assert EXAMPLE.read_text() == example_yaml(), "run python -m serverlessllm.cli.config_example"


def test_example_loads_and_gives_exactly_the_defaults() -> None:
    assert load(EXAMPLE, env={}) == Config()


def test_every_setting_has_a_line_and_a_help_text() -> None:
    text = EXAMPLE.read_text()
    for key, spec, _ in settings():
        assert f"{key.rpartition('.')[2]}:" in text
        assert str(spec.metadata["help"]).split()[0] in text
