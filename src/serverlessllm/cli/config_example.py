# SPDX-License-Identifier: Apache-2.0
"""Writes `config.example.yaml` from the settings' declarations; a test keeps the committed file equal to it.

python -m serverlessllm.cli.config_example > config.example.yaml
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, Final

from serverlessllm.cli.units import setting_text
from serverlessllm.config import Config, settings

WIDTH: Final = 108
HEADER: Final = """\
# Settings of ServerlessLLM, each with its default. Generated from src/serverlessllm/config.py:
#   python -m serverlessllm.cli.config_example > config.example.yaml
# Use a copy with `sllm serve --config FILE` or SLLM_CONFIG; leave out what you do not change.
# Every key is also a flag (--arena-budget-bytes) and an environment variable (SLLM_ARENA_BUDGET_BYTES).
# Precedence: default < this file < environment < flag. Sizes take suffixes: 512MiB, 4GiB, 2GB.
"""


def example_yaml() -> str:
    """The whole file; loading it gives exactly the defaults."""
    lines = [HEADER]
    section = ""
    for key, spec, default in settings():
        head, _, name = key.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"# {_summary(section)}", f"{section}:"]
        indent = "  " if head else ""
        lines += [f"{indent}# {line}" for line in textwrap.wrap(_description(spec), WIDTH - len(indent) - 2)]
        lines.append(f"{indent}{name}: {setting_text(default, key)}")
    return "\n".join(lines) + "\n"


def _summary(section: str) -> str:
    """The first line of the section's docstring."""
    spec = next(field for field in dataclasses.fields(Config) if field.name == section)
    value = getattr(Config(), spec.name)
    return (type(value).__doc__ or section).strip().splitlines()[0]


def _description(spec: dataclasses.Field[Any]) -> str:
    low, high, choices = (spec.metadata[name] for name in ("low", "high", "choices"))
    text = str(spec.metadata["help"])
    if choices:
        return f"{text} One of: {', '.join(choices)}."
    if low is not None and high is not None:
        return f"{text} From {low:g} to {high:g}."
    return f"{text} At least {low:g}." if low else text


if __name__ == "__main__":
    print(example_yaml(), end="")
