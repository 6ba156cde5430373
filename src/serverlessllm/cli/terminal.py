# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables for people, one JSON document for programs, errors in one line.

Everything that a server or a model wrote passes `strip_control` before it reaches a terminal, so that it
cannot move the cursor, change the title or answer on the user's behalf. Rich is imported when first needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STATE_STYLES: Final = {
    "ready": "green",
    "dram": "green",
    "ok": "green",
    "loading": "yellow",
    "binding": "yellow",
    "ingesting": "yellow",
    "warn": "yellow",
    "failed": "red",
    "fail": "red",
}


def strip_control(text: str) -> str:
    """`text` without C0 (but newline and tab), DEL and C1: nothing that a terminal would obey."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """`text` without control characters, and with its line breaks turned into spaces."""
    return " ".join(strip_control(text).split())


@cache
def _console(is_error: bool) -> Console:
    from rich.console import Console

    return Console(stderr=is_error, highlight=False, soft_wrap=False)


def show(renderable: RenderableType, *, is_error: bool = False) -> None:
    """Print something that Rich can draw."""
    _console(is_error).print(renderable)


def print_json(value: object, *, is_compact: bool = False) -> None:
    """The one document of `--json`, on stdout; `is_compact` puts it on one line."""
    import msgspec

    document = msgspec.json.encode(value)
    click.echo((document if is_compact else msgspec.json.format(document, indent=2)).decode())


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, right: Sequence[str] = ()
) -> None:
    """A table without frame; `right` names the columns of numbers. `empty` is said when there is no row."""
    cells = [[strip_control(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if not sys.stdout.isatty():
        click.echo("\n".join(_plain(columns, cells, right)))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in row))
    show(table)


def _plain(columns: Sequence[str], rows: list[list[str]], right: Sequence[str]) -> Iterable[str]:
    """Lines with aligned columns and no width limit: what a pipe gets."""
    widths = [
        max(len(line[i]) for line in [list(columns), *rows])  # one pass per column: tables are short
        for i in range(len(columns))
    ]
    for row in [list(columns), *rows]:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Name and value, one pair a line, aligned; pairs without a value are left out."""
    shown = [(name, strip_control(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr, so that stdout stays the answer."""
    click.echo(one_line(text), err=True)


def print_error(message: str) -> None:
    """One line on stderr."""
    click.echo(f"{click.style('sllm:', fg='red', bold=True)} {one_line(message)}", err=True)
