# SPDX-License-Identifier: Apache-2.0
"""The documentation: builds without a broken link, is current, and names only commands and flags that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from serverlessllm.cli.main import cli
from support.helm_chart import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), REPOSITORY / "README.md"])
COMMAND = re.compile(r"(?:^(?:    (?:\$ )?|\$ )?|`)sllm ([a-z][^`\n|#>]*)", re.M)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_site_builds_without_a_broken_link() -> None:
    done = run("build_docs.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (REPOSITORY / "site" / "install" / "index.html").is_file()


def test_configuration_page_is_current() -> None:
    assert run("settings_page.py").stdout == (DOCS / "configuration.md").read_text(), (
        "run: python scripts/settings_page.py --write"
    )


def unknown(words: list[str]) -> str | None:
    """What of a command line `sllm WORDS` does not exist."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z-]+", words[0]):
        found = command.get_command(context, words[0])
        if found is None:
            return words[0]
        command, words = found, words[1:]
    known = {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)}
    flags = (word.partition("=")[0].rstrip(",") for word in words)
    return next(
        (flag for flag in flags if re.fullmatch(r"--[a-z-]+", flag) and flag not in {*known, "--help"}), None
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_commands_that_there_are(page: Path) -> None:
    for line in COMMAND.findall(page.read_text()):
        if "|" not in line and "bench" not in line:
            assert unknown(line.split()) is None, f"sllm {line}"
