# SPDX-License-Identifier: Apache-2.0
"""`sllm top`: models, nodes, requests and bandwidths, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import print_json, print_table, strip_control
from serverlessllm.cli.units import bytes_text, duration_text, rate_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serverlessllm.cli.top_view import ModelTop, NodeTop, Top
    from serverlessllm.sdk.orchestrator import Client
    from serverlessllm.wire.admin import RequestView

FIRST_LOOK_S: Final = 0.5
MAX_REQUESTS: Final = 200
MODEL_COLUMNS: Final = ("MODEL", "STATE", "TIER", "REPLICAS", "HELD", "RUNNING", "QUEUED")
NODE_COLUMNS: Final = (
    "NODE",
    "STATE",
    "MEMORY",
    "REPLICAS",
    "RUNNING",
    "QUEUED",
    "SLOTS",
    "NVME",
    "REMOTE",
    "LOADS",
)
REQUEST_COLUMNS: Final = ("REQUEST", "MODEL", "STATE", "START", "SINCE", "TOKENS", "NODE")
NUMBERS: Final = ("REPLICAS", "HELD", "RUNNING", "QUEUED", "MEMORY", "SINCE", "TOKENS", "NVME", "REMOTE")
STYLES: Final = {
    "ready": "green",
    "alive": "green",
    "loading": "yellow",
    "binding": "yellow",
    "held": "yellow",
    "drained": "yellow",
    "failed": "red",
    "silent": "red",
}
"""By the first word of a cell."""


@click.command(epilog=exit_codes.EPILOG)
@click.option(
    "--every", "every_s", type=click.FloatRange(0.1, 3600.0), default=1.0, help="Seconds between looks. [1]"
)
@server_options
def top(session: Session, every_s: float) -> int:
    """Show what the platform does, live, until Ctrl-C; once where stdout is no terminal, or with --json."""
    with session.client() as client:
        looks = _looks(client, every_s)
        if session.as_json or not sys.stdout.isatty():
            first = next(looks)
            if session.as_json:
                print_json(first)
            else:
                _print(first)
            return exit_codes.OK
        try:
            _watch(looks, session.url)
        except KeyboardInterrupt:
            return exit_codes.OK
    return exit_codes.OK


def _looks(client: Client, every_s: float) -> Iterator[Top]:
    """A look every so often; the first one soon after a look that is not shown, for the speed of tokens."""
    from serverlessllm.cli.top_view import tokens_of, top_of

    before, seen_s = tokens_of(client.requests(MAX_REQUESTS)), time.monotonic()
    time.sleep(min(FIRST_LOOK_S, every_s))
    while True:
        requests, now_s = client.requests(MAX_REQUESTS), time.monotonic()
        yield top_of(time.time(), client.models(), client.agents(), requests, before, now_s - seen_s)
        before, seen_s = tokens_of(requests), now_s
        time.sleep(every_s)


def _watch(looks: Iterator[Top], url: str) -> None:
    """Redraw until Ctrl-C. Raises UnreachableError when the server is gone."""
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(_drawn(look, url), refresh=True)


def _drawn(look: Top, url: str) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Table:
        drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            drawn.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
        for row in rows:
            cells = (strip_control(cell) for cell in row)
            drawn.add_row(*(Text(cell, style=STYLES.get(cell.partition(" ")[0], "")) for cell in cells))
        return drawn

    blank = Text("")
    head = Text.assemble(("sllm top", "bold"), f"  {url}  ", (_totals(look), "bold"))
    parts: list[RenderableType] = [head, blank, table(NODE_COLUMNS, map(_node_row, look.nodes)), blank]
    parts += [table(MODEL_COLUMNS, map(_model_row, look.models)), blank]
    parts.append(table(REQUEST_COLUMNS, (_request_row(view, look.at_s) for view in look.requests)))
    return Group(*parts)


def _print(look: Top) -> None:
    """For a pipe: the same, as plain tables."""
    click.echo(_totals(look))
    click.echo()
    print_table(NODE_COLUMNS, map(_node_row, look.nodes), empty="no nodes", right=NUMBERS)
    click.echo()
    print_table(MODEL_COLUMNS, map(_model_row, look.models), empty="no models", right=NUMBERS)
    click.echo()
    rows = (_request_row(view, look.at_s) for view in look.requests)
    print_table(REQUEST_COLUMNS, rows, empty="no requests under way", right=NUMBERS)


def _totals(look: Top) -> str:
    alive = sum(node.state != "silent" for node in look.nodes)
    return (
        f"{alive} of {len(look.nodes)} nodes  {look.num_held} held  {look.num_running} running  "
        f"{look.num_queued} queued  {look.tokens_per_s:.0f} tokens/s"
    )


def _model_row(row: ModelTop) -> tuple[str, ...]:
    state = row.state
    if row.progress is not None and row.progress < 1:
        state = f"{row.state} {row.progress:.0%}"
    counts = (row.num_replicas, row.num_held, row.num_running, row.num_queued)
    return (row.name, state, row.tier or "–", *map(str, counts))


def _node_row(row: NodeTop) -> tuple[str, ...]:
    speeds = {band.tier: band for band in row.bandwidths}
    return (
        row.node,
        row.state if row.state != "silent" else f"silent {duration_text(row.silent_s)}",
        f"{bytes_text(row.arena_used_bytes)} / {bytes_text(row.arena_budget_bytes)}",
        str(row.num_replicas),
        str(row.num_running),
        str(row.num_queued),
        ", ".join(f"{number} {name}" for name, number in row.slots.items()),
        *(rate_text(speeds[tier].mean_bytes_per_s) if tier in speeds else "–" for tier in ("nvme", "remote")),
        ", ".join(row.loads),
    )


def _request_row(view: RequestView, now_s: float) -> tuple[str, ...]:
    return (
        view.request_id,
        view.model,
        view.state,
        view.start if view.state == "running" else "",
        duration_text(max(0.0, now_s - view.arrived_s)),
        str(view.completion_tokens),
        view.agent_id or "",
    )
