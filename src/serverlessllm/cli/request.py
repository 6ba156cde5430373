# SPDX-License-Identifier: Apache-2.0
"""`sllm request`: where a request's time went, and why its replica is where it is."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.decision_text import why
from serverlessllm.cli.moves import migrate_request
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import print_fields, print_json, print_table, show
from serverlessllm.cli.units import age_text, duration_text

if TYPE_CHECKING:
    from serverlessllm.sdk.start_summary import StartSummary
    from serverlessllm.wire.admin import PlacementDecision, RequestView
    from serverlessllm.wire.hop import Hop
    from serverlessllm.wire.migrate import Mode


@click.group(epilog=exit_codes.EPILOG)
def request() -> None:
    """List requests, and explain where one's time went."""


@request.command("list", epilog=exit_codes.EPILOG)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first."
)
@server_options
def list_requests(session: Session, limit: int) -> None:
    """List live and recent requests."""
    with session.client() as client:
        requests = client.requests(limit)
    if session.as_json:
        print_json({"requests": requests})
        return
    now = time.time()
    print_table(
        ("ID", "MODEL", "ARRIVED", "STATE", "START", "TIER", "TTFT", "E2E", "TOKENS"),
        (_row(view, now) for view in requests),
        empty="no requests yet",
        right=("TTFT", "E2E", "TOKENS"),
    )


def _row(view: RequestView, now_s: float) -> tuple[str, ...]:
    return (
        view.request_id,
        view.model,
        age_text(now_s - view.arrived_s),
        view.state if view.state != "failed" else f"failed {view.status}",
        view.start,
        view.tier or "–",
        duration_text(view.ttft_ms / 1e3) if view.ttft_ms else "–",
        duration_text(view.e2e_ms / 1e3) if view.e2e_ms else "–",
        str(view.completion_tokens) if view.completion_tokens else "–",
    )


@request.command(epilog=exit_codes.EPILOG)
@click.argument("request_id", metavar="ID")
@server_options
def explain(session: Session, request_id: str) -> None:
    """Show the road of request ID phase by phase, and the decisions that placed its replica and chose it."""
    with session.client() as client:
        detail = client.request(request_id)
    if session.as_json:
        print_json(detail)
        return
    from serverlessllm.cli.waterfall import waterfall

    print_fields(_fields(detail.request))
    click.echo()
    show(waterfall(_summary(detail.request)))
    if detail.decision is not None:
        click.echo()
        _print_decision("placed on", detail.decision)
    if detail.route is not None:
        click.echo()
        _print_decision("sent to", detail.route)


@request.command(epilog=exit_codes.EPILOG)
@click.argument("request_id", metavar="ID")
@click.option("--to", "to", default="", metavar="NODE", help="Where to; the cheapest node if left out.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "recompute", "copy"]),
    default="auto",
    show_default=True,
    help="Compute its cache anew there, or copy it.",
)
@server_options
def migrate(session: Session, request_id: str, to: str, mode: Mode) -> None:
    """Move the running stream ID to another node; its reader notices nothing."""
    migrate_request(session, request_id, to, mode)


def _summary(view: RequestView) -> StartSummary:
    from serverlessllm.sdk.start_summary import StartSummary

    return StartSummary(view.start, view.tier, view.phases, view.ttft_ms, view.gbps, view.nbytes)


def _fields(view: RequestView) -> list[tuple[str, str]]:
    arrived = datetime.fromtimestamp(view.arrived_s).astimezone()
    speed = ""
    beside = f", {duration_text(view.load_ms / 1e3)} beside which it was computed" if view.load_ms else ""
    if view.gbps:
        share = f" of {view.possible_gbps:.2f} possible" if view.possible_gbps else ""
        speed = f"{view.gbps:.2f} GB/s{share}{f', limited by {view.limiting}' if view.limiting else ''}"
    return [
        ("request", view.request_id),
        ("model", f"{view.model}{f' @ {view.revision}' if view.revision else ''}"),
        ("call", f"{view.endpoint}{', streamed' if view.is_stream else ''}"),
        ("arrived", f"{arrived:%Y-%m-%d %H:%M:%S %z}"),
        ("state", f"{view.state}{f' ({view.status})' if view.status else ''}"),
        ("error", view.error or ""),
        ("agent", f"{view.agent_id}, attempt {view.attempt}" if view.agent_id else ""),
        ("retries", str(view.num_retries) if view.num_retries else ""),
        ("hops", " → ".join(_hop(hop) for hop in view.hops)),
        ("load", speed + beside),
        ("tokens", f"{view.prompt_tokens} in ({view.cached_tokens} cached), {view.completion_tokens} out"),
        ("tenant", view.tenant),
        ("trace", view.trace_id),
        ("total", duration_text(view.e2e_ms / 1e3) if view.e2e_ms else ""),
    ]


def _hop(hop: Hop) -> str:
    if hop.how == "begun":
        return hop.agent_id
    return f"{hop.agent_id} ({hop.how} after {hop.seq} tokens: {hop.reason})"


def _print_decision(what: str, decision: PlacementDecision) -> None:
    click.echo(f"{what} {decision.picked or 'no agent'}: {why(decision)}")
    print_table(
        ("AGENT", "DEVICES", "SCORE", "TERMS"),
        (
            (
                candidate.agent_id,
                candidate.device_set,
                duration_text(candidate.score_s) if candidate.score_s is not None else "–",
                candidate.rejected
                or ", ".join(f"{name} {duration_text(term)}" for name, term in candidate.terms_s.items()),
            )
            for candidate in decision.candidates
        ),
        empty="no agent was a candidate",
        right=("SCORE",),
    )
