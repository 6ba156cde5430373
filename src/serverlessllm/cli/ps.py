# SPDX-License-Identifier: Apache-2.0
"""`sllm ps`: what runs where now, and what rests in which memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.model import size_text_of, state_of
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import print_json, print_table
from serverlessllm.cli.units import bytes_text, duration_text, rate_text

if TYPE_CHECKING:
    from serverlessllm.wire.admin import AgentView, ModelView
    from serverlessllm.wire.agent import AgentStatus


@click.command(epilog=exit_codes.EPILOG)
@server_options
def ps(session: Session) -> None:
    """Show what runs where: models, replicas, agents."""
    with session.client() as client:
        models, agents = client.models(), client.agents()
    if session.as_json:
        print_json({"models": models, "agents": agents})
        return
    print_table(
        ("MODEL", "SIZE", "TIER", "STATE", "AGENT", "PID", "RUNNING", "QUEUED", "SLEEPS IN"),
        (row for view in models for row in _model_rows(view)),
        empty="no models; register one with `sllm model add NAME SOURCE`",
        right=("SIZE", "PID", "RUNNING", "QUEUED", "SLEEPS IN"),
    )
    click.echo()
    print_table(
        ("AGENT", "ALIVE", "ENGINES", "MEMORY", "NVME", "SLOTS", "ADDRESS"),
        map(_agent_row, agents),
        empty="no agents",
        right=("MEMORY", "NVME"),
    )


def _model_rows(view: ModelView) -> Iterator[tuple[str, ...]]:
    """One row per replica; one row for a model that sleeps."""
    head = (view.name, size_text_of(view), view.tier or "–")
    if not view.replicas:
        held = f"{view.num_held}" if view.num_held else ""
        yield (*head, state_of(view), "", "", "", held, "")
    for replica in view.replicas:
        status = replica.status
        sleeps_in = ""
        if status.state == "ready" and not status.num_running:
            sleeps_in = duration_text(max(0.0, view.keep_alive_s - status.idle_s))
        pid = str(status.pid) if status.pid is not None else ""
        yield (
            *head,
            status.state,
            replica.agent_id,
            pid,
            str(status.num_running),
            str(status.num_queued),
            sleeps_in,
        )


def _agent_row(view: AgentView) -> tuple[str, ...]:
    status = view.status
    if status is None:
        return ("–", "yes" if view.is_alive else "no", "", "", "", "", view.address)
    return (
        status.agent_id,
        "yes" if view.is_alive else f"silent {duration_text(view.silent_s)}",
        ", ".join(_engine_text(status, engine) for engine in status.engines),
        f"{bytes_text(status.arena_used_bytes)} / {bytes_text(status.arena_budget_bytes)}",
        _nvme_text(status),
        ", ".join(f"{number} {name}" for name, number in status.slots.items() if number),
        view.address,
    )


def _nvme_text(status: AgentStatus) -> str:
    """`2.31 GB/s of 3.36 GB/s`: observed, and possible where that is known."""
    nvme = next((band for band in status.bandwidths if band.tier == "nvme" and not band.source), None)
    if nvme is None or not (nvme.num_samples or nvme.possible_bytes_per_s):
        return "–"
    observed = rate_text(nvme.mean_bytes_per_s) if nvme.num_samples else "–"
    possible = nvme.possible_bytes_per_s
    return f"{observed} of {rate_text(possible)}" if possible else observed


def _engine_text(status: AgentStatus, engine: str) -> str:
    """`torch (bfloat16)`, once the dtype is known."""
    dtype = status.dtypes.get(engine)
    return f"{engine} ({dtype})" if dtype else engine
