# SPDX-License-Identifier: Apache-2.0
"""`sllm node`: the nodes of a cluster, and taking one out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.moves import evacuate
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_json, print_table
from serverlessllm.cli.units import bytes_text, duration_text

if TYPE_CHECKING:
    from serverlessllm.wire.admin import AgentView


@click.group(epilog=exit_codes.EPILOG)
def node() -> None:
    """List nodes, drain them and take them back."""


@node.command("list", epilog=exit_codes.EPILOG)
@server_options
def list_nodes(session: Session) -> None:
    """List the nodes that the server knows."""
    with session.client() as client:
        agents = client.agents()
    if session.as_json:
        print_json({"agents": agents})
        return
    print_table(
        ("NODE", "STATE", "ENGINES", "MEMORY", "REPLICAS", "ADDRESS"),
        map(_row, agents),
        empty="no nodes; start one with `sllm agent`",
        right=("MEMORY", "REPLICAS"),
    )


@node.command(epilog=exit_codes.EPILOG)
@click.argument("node_id", metavar="NODE")
@click.option("--migrate", is_flag=True, help="Move the streams that run there to other nodes.")
@server_options
def drain(session: Session, node_id: str, migrate: bool) -> None:
    """Let NODE take nothing new; its models sleep as soon as nothing runs in them."""
    if migrate:
        evacuate(session, node_id)
    else:
        _set(session, node_id, drained=True)


@node.command(epilog=exit_codes.EPILOG)
@click.argument("node_id", metavar="NODE")
@server_options
def undrain(session: Session, node_id: str) -> None:
    """Let NODE take models again."""
    _set(session, node_id, drained=False)


def _set(session: Session, node_id: str, *, drained: bool) -> None:
    with session.client() as client:
        view = client.drain_agent(node_id, drained=drained)
    if session.as_json:
        print_json(view)
    else:
        note(f"{node_id} takes nothing new" if drained else f"{node_id} takes models again")


def _row(view: AgentView) -> tuple[str, ...]:
    status = view.status
    if status is None:
        return ("–", _state(view), "", "", "", view.address)
    return (
        status.agent_id,
        _state(view),
        ", ".join(status.engines),
        f"{bytes_text(status.arena_used_bytes)} / {bytes_text(status.arena_budget_bytes)}",
        str(sum(replica.state == "ready" for replica in status.replicas)),
        view.address,
    )


def _state(view: AgentView) -> str:
    if view.problem is not None:
        return view.problem
    if not view.is_alive:
        return f"silent {duration_text(view.silent_s)}"
    if view.breaker != "closed":
        return f"failing, breaker {view.breaker.replace('_', ' ')}"
    return "drained" if view.is_drained else "alive"
