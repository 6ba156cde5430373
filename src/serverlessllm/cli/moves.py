# SPDX-License-Identifier: Apache-2.0
"""How moved requests are shown: `sllm node drain --migrate` and `sllm request migrate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from serverlessllm.cli import exit_codes
from serverlessllm.cli.terminal import note, print_json, print_table
from serverlessllm.cli.units import bytes_text, duration_text

if TYPE_CHECKING:
    from serverlessllm.cli.session import Session
    from serverlessllm.wire.migrate import Mode
    from serverlessllm.wire.moves import MoveView


def evacuate(session: Session, node_id: str) -> None:
    """Drain a node and move its streams; exits with `FAILED` while some are left."""
    with session.client() as client:
        evacuated = client.evacuate_agent(node_id)
    if session.as_json:
        print_json(evacuated)
    else:
        _print(evacuated.moves)
        note(f"{node_id} takes nothing new")
        if evacuated.num_left or evacuated.num_whole:
            note(f"{evacuated.num_left + evacuated.num_whole} requests are being finished there")
    if evacuated.num_left:
        sys.exit(exit_codes.FAILED)


def migrate_request(session: Session, request_id: str, to: str, mode: Mode) -> None:
    """Move one request; exits with `FAILED` when it stayed."""
    with session.client() as client:
        view = client.move_request(request_id, to, mode=mode)
    if session.as_json:
        print_json(view)
    else:
        _print([view])
    if view.result.state != "moved":
        sys.exit(exit_codes.FAILED)


def _print(moves: list[MoveView]) -> None:
    print_table(
        ("REQUEST", "MODEL", "FROM", "TO", "STATE", "ROUNDS", "IDS", "COPIED", "PREPARED IN", "HANDOVER"),
        (_row(view) for view in moves),
        empty="no streams to move",
        right=("ROUNDS", "IDS", "COPIED", "PREPARED IN", "HANDOVER"),
    )


def _row(view: MoveView) -> tuple[str, ...]:
    result = view.result
    return (
        result.request_id,
        view.model,
        view.source,
        view.destination or "–",
        result.state if result.state == "moved" else f"{result.state}: {result.message}",
        str(result.num_rounds),
        str(result.num_ids),
        bytes_text(result.copied_bytes) if result.copied_bytes else "–",
        duration_text(result.prepare_ms / 1e3),
        duration_text(result.handover_ms / 1e3),
    )
