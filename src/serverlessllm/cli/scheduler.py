# SPDX-License-Identifier: Apache-2.0
"""`sllm scheduler`: how placement weighs what it knows."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import print_json, print_table
from serverlessllm.cli.units import duration_text

if TYPE_CHECKING:
    from serverlessllm.wire.admin import PlacementDecision
    from serverlessllm.wire.scheduler import ScoreWeights

TERMS: Final = {
    "queue": "seconds until a replica, or a place for one, is free",
    "load": "seconds until missing bytes have arrived",
    "kv": "seconds to compute what is not cached of the prompt",
    "evict": "seconds that callers of evicted models will lose",
}


@click.group(epilog=exit_codes.EPILOG)
def scheduler() -> None:
    """Look at and change how placement decides."""


@scheduler.command(epilog=exit_codes.EPILOG)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, newest last."
)
@server_options
def decisions(session: Session, limit: int) -> None:
    """List recent decisions: which model went where, and what was expected and came of it; --json: one a line."""
    with session.client() as client:
        recent = client.decisions(limit)
    if session.as_json:
        for decision in recent:
            print_json(decision, is_compact=True)
        return
    print_table(
        ("DECIDED", "MODEL", "WHY", "PICKED", "EXPECTED", "READY", "TTFT", "OUTCOME"),
        map(_row, recent),
        empty="no decisions yet",
        right=("EXPECTED", "READY", "TTFT"),
    )


def _row(decision: PlacementDecision) -> tuple[str, ...]:
    decided = datetime.fromtimestamp(decision.decided_s).astimezone()
    score_s = next((each.score_s for each in decision.candidates if each.agent_id == decision.picked), None)
    return (
        f"{decided:%H:%M:%S}",
        decision.model,
        decision.kind,
        decision.picked or "–",
        duration_text(score_s) if score_s is not None else "–",
        duration_text(decision.wake_ms / 1e3) if decision.wake_ms is not None else "–",
        duration_text(decision.ttft_ms / 1e3) if decision.ttft_ms is not None else "–",
        decision.outcome or "–",
    )


@scheduler.group(epilog=exit_codes.EPILOG)
def weights() -> None:
    """How much each term of the score counts; 1 is its expected seconds as they are."""


@weights.command(epilog=exit_codes.EPILOG)
@server_options
def get(session: Session) -> None:
    """Show the weights."""
    with session.client() as client:
        _show(session, client.weights())


class Weight(click.ParamType[tuple[str, float]]):
    """`term=number`."""

    name = "TERM=NUMBER"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        term, _, number = str(value).partition("=")
        term = term.removeprefix("w_")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if term not in TERMS or not math.isfinite(factor) or factor < 0:
            self.fail(
                f"{value!r} is not TERM=NUMBER with TERM of {', '.join(TERMS)} and NUMBER ≥ 0", param, ctx
            )
        return term, factor


@weights.command("set", epilog=exit_codes.EPILOG)
@click.argument("changes", nargs=-1, type=Weight(), required=True, metavar="TERM=NUMBER...")
@server_options
def set_weights(session: Session, changes: tuple[tuple[str, float], ...]) -> None:
    """Change weights, for example `queue=2 evict=0`; the others stay. Every orchestrator follows within a second."""
    with session.client() as client:
        wanted = {
            f"w_{term}": factor for term, factor in (client.weights().by_term() | dict(changes)).items()
        }
        _show(session, client.set_weights(**wanted))


def _show(session: Session, current: ScoreWeights) -> None:
    if session.as_json:
        print_json(current)
        return
    print_table(
        ("TERM", "WEIGHT", "WHAT IT IS"),
        ((term, f"{factor:g}", TERMS[term]) for term, factor in current.by_term().items()),
        right=("WEIGHT",),
        empty="",
    )
