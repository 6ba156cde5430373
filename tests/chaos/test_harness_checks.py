# SPDX-License-Identifier: Apache-2.0
"""The storm's own eyes: what it must see, it sees. Otherwise a storm that finds nothing says nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from chaos.harness.aftermath import check_loads
from chaos.harness.agent_watch import AgentWatch, Load
from chaos.harness.ask import Ask, Right
from chaos.harness.record_history import RecordHistory
from chaos.harness.schedule import NUM_FAULTY, Bounds, plan
from chaos.harness.stream_check import StreamCheck
from serverlessllm.metadata.records import PlacementRecord, encode
from serverlessllm.metadata.store import Change
from serverlessllm.types import ReplicaState

ASK = Ask(1, "m", "completions", "x", 7, 1, 3)
RIGHT = Right(2, [[10, 11, 12]], ["abc"])
USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def event(seq: int, ids: Sequence[int], text: str, finish: str | None = None, **changes: Any) -> bytes:
    """One chunk of the answer."""
    choice = {"index": 0, "text": text, "token_ids": list(ids), "finish_reason": finish}
    body = {
        "id": "r",
        "created": 1,
        "model": "m",
        "object": "text_completion",
        "choices": [choice],
        **changes,
    }
    return b"id: %d\ndata: %b\n\n" % (seq, json.dumps(body).encode())


FIRST, SECOND, LAST = event(1, [10], "a"), event(2, [11], "b"), event(3, [12], "c", "length")
END = event(3, [], "", choices=[], usage=USAGE) + b"data: [DONE]\n\n"


def check(*parts: bytes) -> None:
    """Feed every part as a connection of its own."""
    checked = StreamCheck(ASK, RIGHT)
    for part in parts:
        checked.feed(part)
        checked.cut()
    checked.check_whole()


def test_right_answer_over_two_connections_is_right() -> None:
    check(b": loading\n" + FIRST + SECOND[:-9], SECOND + LAST + END)


@pytest.mark.parametrize(
    "stream",
    [
        FIRST + LAST + END,
        FIRST + FIRST + SECOND + LAST + END,
        FIRST + event(2, [12], "b") + LAST + END,
        FIRST + SECOND + LAST,
        FIRST + SECOND + LAST + END + b": more\n",
        FIRST + SECOND + event(3, [12], "x", "length") + END,
        FIRST + event(2, [11], "b", id="other") + LAST + END,
        FIRST + b'data: {"error": {"code": "worker_lost"}}\n\ndata: [DONE]\n\n',
    ],
    ids=["lost", "doubled", "another", "unended", "goes-on", "text", "renamed", "error"],
)
def test_wrong_stream_is_seen(stream: bytes) -> None:
    with pytest.raises(AssertionError):
        check(stream)


def history(*writes: tuple[int, ReplicaState, str] | None) -> RecordHistory:
    """Of one record: (attempt, state, node), or None for a deletion."""
    made = RecordHistory("redis://nowhere:1")
    for revision, write in enumerate(writes, start=1):
        value = None
        if write is not None:
            attempt, state, node = write
            record = PlacementRecord(
                model="m", replica="0", node=node, revision="r", attempt=attempt, state=state
            )
            value = encode(record)
        made.changes.append(Change("/sllm/v1/placements/m/0", value, revision))
    return made


def test_claims_that_follow_one_another_are_right() -> None:
    history((1, "loading", "a"), (1, "ready", "a"), (3, "loading", "b"), None, (5, "loading", "a")).check()


@pytest.mark.parametrize(
    "late", [(1, "ready", "a"), (2, "loading", "a")], ids=["over a newer one", "no newer than a claim before"]
)
def test_write_of_an_overtaken_attempt_is_seen(late: tuple[int, ReplicaState, str]) -> None:
    with pytest.raises(AssertionError):
        history((1, "loading", "a"), (2, "loading", "b"), late).check()


def test_claim_that_was_loaded_twice_is_seen() -> None:
    watches = [AgentWatch(name, "http://127.0.0.1:1", "") for name in ("a", "b")]
    watches[0].loads = [Load("m", 1, "a"), Load("m", 2, "a")]
    check_loads(watches)
    watches[1].loads = [Load("m", 2, "b")]
    with pytest.raises(AssertionError, match="one claim"):
        check_loads(watches)


@pytest.mark.parametrize("seed", range(50))
def test_plan_repeats_and_leaves_somebody_well(seed: int) -> None:
    faults = plan(seed, Bounds())
    assert faults == plan(seed, Bounds())
    assert len(faults) == Bounds().num_faults
    for role, most in NUM_FAULTY.items():
        of_role = [fault for fault in faults if fault.role == role]
        for fault in of_role:
            assert sum(other.at_s <= fault.at_s < other.end_s for other in of_role) <= most
