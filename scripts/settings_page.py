# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md, made from the settings' declarations in config.py. `--write` updates it; a test compares."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from serverlessllm import config
from serverlessllm.cli.units import setting_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

Every setting of every process, made by `scripts/settings_page.py` from the dataclasses in
`src/serverlessllm/config.py`. Precedence: default < file (`--config FILE`, or `SLLM_CONFIG`) < environment < flag. An
unknown key is an error that names the nearest known one. Sizes take suffixes: `512MiB`, `4GiB`, `2GB`.

A setting `section.key` is written as `section: {key: …}` in the file
([all of it with its defaults](../config.example.yaml)), as `SLLM_SECTION_KEY` in the environment, and as
`--section-key` on the command line.

Secrets are no settings, since a flag would show them: `SLLM_SECRET` (shared by a cluster's processes), `SLLM_KEYS`
(keys that an orchestrator starts with), `SLLM_API_KEY` (of the command line), `SLLM_METADATA_USER`,
`SLLM_METADATA_PASSWORD`. Accounts of sources are read as their own tools name them: `AWS_*`, `HF_TOKEN`,
`HF_ENDPOINT`.
"""


def _bounds(spec: dataclasses.Field[Any]) -> str:
    low, high, choices = (spec.metadata.get(name) for name in ("low", "high", "choices"))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if low is None and high is None:
        return ""
    if high is None:
        return f"≥ {low:g}"
    return f"≤ {high:g}" if low is None else f"{low:g} … {high:g}"


def _default(value: object, key: str) -> str:
    text = setting_text(value, key)
    return f"`{text}`" if text else "–"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    section = None
    for key, spec, default in config.settings():
        name = key.partition(".")[0] if "." in key else ""
        if name != section:
            section = name
            value = getattr(config.Config(), name) if name else None
            title = f"`{name}`" if name else "All processes"
            about = (type(value).__doc__ or "").partition("\n")[0] if name else "Without a section."
            parts += [
                "",
                f"## {title}",
                "",
                about,
                "",
                "| setting | default | values | meaning |",
                "|---|---|---|---|",
            ]
        help_text = str(spec.metadata["help"]).replace("|", "\\|")
        parts.append(f"| `{key}` | {_default(default, key)} | {_bounds(spec)} | {help_text} |")
    return "\n".join(parts) + "\n"


def main() -> None:
    """Print, or write."""
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
