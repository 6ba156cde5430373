# SPDX-License-Identifier: Apache-2.0
"""The road of a request as a small picture in the terminal: one bar per phase, each where the last one ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serverlessllm.cli.units import bytes_text, duration_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serverlessllm.sdk.start_summary import StartSummary

BAR_WIDTH: Final = 40
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
STYLES: Final = {
    "queue": "bright_black",
    "place": "bright_black",
    "fetch": "magenta",
    "read": "blue",
    "bind": "cyan",
    "prefill": "green",
    "first_token": "yellow",
}


def bar(start_ratio: float, length_ratio: float, width: int = BAR_WIDTH) -> str:
    """A bar from `start_ratio` over `length_ratio` of `width` cells, to an eighth of a cell at its end.

    A phase that took any time at all is seen: at least an eighth.
    """
    if length_ratio <= 0:
        return ""
    cell = min(int(start_ratio * width), width - 1)
    eighths = max(1, min(round(length_ratio * width * 8), (width - cell) * 8))
    full, rest = divmod(eighths, 8)
    return " " * cell + EIGHTHS[8] * full + (EIGHTHS[rest] if rest else "")


def headline(summary: StartSummary) -> str:
    """`cold start from nvme · 269.0 MiB at 1.93 GB/s · first token after 283 ms`."""
    tier = f" from {summary.tier}" if summary.tier and summary.start != "hot" else ""
    parts = [f"{summary.start} start{tier}"]
    if summary.nbytes and summary.gbps:
        parts.append(f"{bytes_text(summary.nbytes)} at {summary.gbps:.2f} GB/s")
    parts.append(f"first token after {duration_text(summary.ttft_ms / 1e3)}")
    return " · ".join(parts)


def waterfall(summary: StartSummary) -> RenderableType:
    """Headline and bars; phases that the road did not touch are left out."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    total_ms = max(sum(summary.phases_ms.values()), 1e-9)
    done_ms = 0.0
    for phase, phase_ms in summary.phases_ms.items():
        if phase_ms <= 0:
            continue
        drawn = bar(done_ms / total_ms, phase_ms / total_ms)
        table.add_row(
            Text(phase, style="dim"), duration_text(phase_ms / 1e3), Text(drawn, style=STYLES.get(phase, ""))
        )
        done_ms += phase_ms
    return Group(Text(headline(summary), style="bold"), table)
