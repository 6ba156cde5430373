# SPDX-License-Identifier: Apache-2.0
"""Replays a trace against a front, open loop: calls leave when the trace says, whatever came of earlier ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from benchmarks.burst.hardware import Hardware
from benchmarks.burst.models import VOCAB_SIZE, model_name
from benchmarks.burst.trace import Call

PATIENCE_S: Final = 600.0
HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answered:
    """One call: what its client saw. `start` is the server's word for it (cold, warm, hot); `sent_s` is on the
    monotonic clock, and so is `sent_s + ttft_s`.
    """

    call: Call
    sent_s: float
    status: int
    ttft_s: float
    num_tokens: int
    is_whole: bool
    start: str


async def replay(url: str, calls: Sequence[Call], hardware: Hardware) -> tuple[list[Answered], float]:
    """All answers, and how late calls left at the 95th percentile (seconds): whether this client kept up."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    delays_s: list[float] = []
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        began_s = time.monotonic()
        tasks = []
        for index, call in enumerate(calls):
            pause_s = began_s + call.at_s - time.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            delays_s.append(max(0.0, time.monotonic() - began_s - call.at_s))
            tasks.append(asyncio.create_task(_ask(session, call, index, hardware)))
        answered = await asyncio.gather(*tasks)
    return list(answered), sorted(delays_s)[int(0.95 * (len(delays_s) - 1))]


async def _ask(session: aiohttp.ClientSession, call: Call, index: int, hardware: Hardware) -> Answered:
    prompt = [3 + (index * 7 + token) % (VOCAB_SIZE - 3) for token in range(hardware.prompt_tokens)]
    body = {
        "model": model_name(call.model),
        "prompt": prompt,
        "max_tokens": hardware.answer_tokens,
        "ignore_eos": True,
        "stream": True,
        "seed": index,
    }
    began_s = time.monotonic()
    first_s, received = 0.0, bytearray()
    try:
        async with session.post("/v1/completions", data=json.dumps(body), headers=HEADERS) as response:
            async for data in response.content.iter_any():
                received += data
                if not first_s and b"\ndata: {" in received:
                    first_s = time.monotonic() - began_s
            return _answered(call, began_s, response.status, first_s, bytes(received), response.headers)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answered(call, began_s, 599, time.monotonic() - began_s, 0, False, type(error).__name__)


def _answered(
    call: Call, sent_s: float, status: int, first_s: float, received: bytes, headers: object
) -> Answered:
    ids = received.rsplit(b"\nid: ", 1)
    num_tokens = int(ids[1].split(b"\n", 1)[0]) if len(ids) == 2 else 0
    is_whole = status == 200 and received.endswith(b"data: [DONE]\n\n") and b'"error"' not in received
    return Answered(call, sent_s, status, first_s, num_tokens, is_whole, _start(received, headers))


def _start(received: bytes, headers: object) -> str:
    """From the timeline comment, or from `Server-Timing` where headers left with the first token."""
    timing = getattr(headers, "get", lambda *_: "")("Server-Timing", "") or ""
    for kind in ("cold", "warm", "hot"):
        if f'start;desc="{kind}"' in timing or f'"start":"{kind}"'.encode() in received:
            return kind
    return "unknown"
