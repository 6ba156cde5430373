# SPDX-License-Identifier: Apache-2.0
"""The sequenced stream: snapshot, deltas, resume, overflow, heartbeats, the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from serverlessllm.agent.event_log import EventLog
from serverlessllm.wire.agent import AgentStatus
from serverlessllm.wire.events import AgentEvent, Heartbeat, LoadEnded, Snapshot
from support.hand_clock import HandClock

BOOT = "boot-1"


def snapshot() -> Snapshot:
    return Snapshot(AgentStatus("agent", BOOT, 1, [], 0, 0, "", [], [], [], [], {}))


def ended(model: str) -> LoadEnded:
    return LoadEnded(model, "r", None)


def parsed(data: bytes) -> list[tuple[int, AgentEvent]]:
    events = []
    for block in data.decode().strip().split("\n\n"):
        head, _, body = block.partition("\n")
        events.append((int(head[4:]), msgspec.json.decode(body[6:].encode(), type=AgentEvent)))
    return events


def follow(log: EventLog, from_seq: int | None) -> AsyncGenerator[bytes, None]:
    return log.follow(from_seq, snapshot, heartbeat_s=0.001)


async def test_new_follower_gets_snapshot_then_deltas() -> None:
    log = EventLog(BOOT, HandClock())
    stream = follow(log, None)
    ((seq, first),) = parsed(await anext(stream))
    assert first == snapshot()
    log.publish(ended("a"))
    log.publish(ended("b"))
    assert parsed(await anext(stream)) == [(seq + 1, ended("a")), (seq + 2, ended("b"))]
    await stream.aclose()


async def test_follower_that_knows_a_seq_gets_only_what_came_after() -> None:
    log = EventLog(BOOT, HandClock())
    seqs = [log.publish(ended(name)) for name in "abc"]
    stream = follow(log, seqs[0])
    assert parsed(await anext(stream)) == [(seqs[1], ended("b")), (seqs[2], ended("c"))]
    await stream.aclose()


async def test_follower_beyond_the_ring_gets_a_new_snapshot() -> None:
    log = EventLog(BOOT, HandClock(), max_events=2)
    seqs = [log.publish(ended(name)) for name in "abcd"]
    stream = follow(log, seqs[0])
    assert parsed(await anext(stream)) == [(seqs[-1], snapshot())]
    await stream.aclose()


async def test_seq_of_an_earlier_boot_gets_a_snapshot() -> None:
    clock = HandClock(wall_s=1000.0)
    before = EventLog("boot-0", clock)
    old = [before.publish(ended(name)) for name in "abc"][-1]
    clock.advance(1.0)
    stream = follow(EventLog(BOOT, clock), old)
    assert isinstance(parsed(await anext(stream))[0][1], Snapshot)
    await stream.aclose()


async def test_quiet_log_sends_heartbeats_with_the_last_seq() -> None:
    log = EventLog(BOOT, HandClock())
    seq = log.publish(ended("a"))
    stream = follow(log, seq)
    assert parsed(await anext(stream)) == [(seq, Heartbeat(BOOT))]
    await stream.aclose()


async def test_close_ends_every_follower() -> None:
    log = EventLog(BOOT, HandClock())
    stream = follow(log, None)
    await anext(stream)
    log.close()
    assert [data async for data in stream] == []
