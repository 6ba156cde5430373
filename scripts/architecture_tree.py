# SPDX-License-Identifier: Apache-2.0
"""The tree in ARCHITECTURE.md: every module with the first line of its docstring.

`--write` brings the page up to date; without it the tree is printed. A test compares the page with the disk.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- tree: begin -->\n```\n", "```\n<!-- tree: end -->"
ORDER = (
    *(
        "errors",
        "types",
        "clock",
        "config",
        "node_profile",
        "wire",
        "telemetry",
        "sdk",
        "metadata",
        "checkpoint",
        "arena",
    ),
    *("sources", "loader", "text", "engine", "ingest", "agent", "orchestrator", "app", "cli"),
)


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n")[0].rstrip(".")


def entries(folder: Path, depth: int) -> list[tuple[str, str]]:
    """(indented name, summary) of a package's content, packages after modules."""
    rows = []
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    if depth == 0:
        rank = {name: number for number, name in enumerate(ORDER)}
        both = sorted([*modules, *packages], key=lambda path: (rank.get(path.stem, len(rank)), path.name))
    else:
        both = [*modules, *packages]
    for path in both:
        indent = "  " * (depth + 1)
        if path.is_dir():
            rows.append((f"{indent}{path.name}/", summary(path / "__init__.py")))
            rows += entries(path, depth + 1)
        else:
            rows.append((f"{indent}{path.name}", summary(path)))
    return rows


def tree() -> str:
    """The whole tree as text."""
    rows = entries(ROOT / "src" / "serverlessllm", 0)
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{text}".rstrip() for name, text in rows]
    return "src/serverlessllm/\n" + "\n".join(lines) + "\n"


def page_with_tree(page: str) -> str:
    """The page with its tree replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + tree() + END + tail


def main() -> None:
    """Print, or write."""
    if "--write" in sys.argv:
        PAGE.write_text(page_with_tree(PAGE.read_text()))
    else:
        sys.stdout.write(tree())


if __name__ == "__main__":
    main()
