# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site, in `site/`: mkdocs over docs/ and the pages of the root. A broken link is an error.

Pages link to files of the repository as they lie in it. In the copy that mkdocs reads, a link to a page that the site
has is bent to it, any other to the file in the repository's web view; one to a file that is not there ends the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
WEB_VIEW: Final = "https://github.com/serverlessllm/serverlessllm/blob/main"
ROOT_PAGES: Final = ("ARCHITECTURE.md", "GLOSSARY.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK: Final = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


class BrokenLinkError(Exception):
    """A page links to a file that the repository does not have."""


def staged(page: Path, text: str) -> str:
    """The page's text with its links bent. `page` lies where it does in the repository. Raises BrokenLinkError."""

    def bend(match: re.Match[str]) -> str:
        target, anchor = match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        found = (page.parent / target).resolve()
        if not found.exists() or not found.is_relative_to(ROOT):
            raise BrokenLinkError(f"{page.relative_to(ROOT)}: {target} is not there")
        is_page = found.is_relative_to(ROOT / "docs") or found.name in ROOT_PAGES and found.parent == ROOT
        if not is_page:
            return f"{match[1]}{WEB_VIEW}/{found.relative_to(ROOT)}{anchor}{match[4]}"
        place = Path(found.name) if found.parent == ROOT else found.relative_to(ROOT / "docs")
        here = Path() if page.parent == ROOT else page.parent.relative_to(ROOT / "docs")
        ups = "../" * len(here.parts)
        return f"{match[1]}{ups}{place}{anchor}{match[4]}"

    return LINK.sub(bend, text)


def stage(directory: Path) -> None:
    """Fill `directory` with what mkdocs reads. Raises BrokenLinkError."""
    shutil.copytree(ROOT / "docs", directory, dirs_exist_ok=True)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        (directory / page.relative_to(ROOT / "docs")).write_text(staged(page, page.read_text()))
    for name in ROOT_PAGES:
        (directory / name).write_text(staged(ROOT / name, (ROOT / name).read_text()))


def with_runbooks(config: str) -> str:
    """mkdocs' settings with every runbook in the navigation."""
    pages = sorted(
        (ROOT / "docs" / "runbooks").glob("*.md"), key=lambda page: (page.stem != "README", page.stem)
    )
    return config.replace("Runbooks: []", f"Runbooks: {[f'runbooks/{page.name}' for page in pages]}")


def main() -> int:
    """Exit 0: built; 1: a broken link or another error of mkdocs."""
    with tempfile.TemporaryDirectory(prefix="sllm-docs-") as scratch:
        try:
            stage(Path(scratch) / "docs")
        except BrokenLinkError as error:
            sys.stderr.write(f"build_docs: {error}\n")
            return 1
        config = Path(scratch) / "mkdocs.yml"
        config.write_text(with_runbooks((ROOT / "mkdocs.yml").read_text()))
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(config)]
        env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an advertisement, not a warning about our pages
        return subprocess.run([*command, "-d", str(ROOT / "site")], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
