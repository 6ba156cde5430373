# SPDX-License-Identifier: Apache-2.0
"""How one request's start went, as its caller is told: by a stream's last comment or by `Server-Timing`.

Knows nothing of how the phases were measured.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from serverlessllm.types import PHASES

_METRIC: Final = re.compile(r'([a-z_]+)(?:;dur=([0-9.eE+-]+))?(?:;desc="([^"]*)")?')


@dataclass(frozen=True, slots=True)
class StartSummary:
    """`start` is cold, warm or hot; `tier` is where the bytes came from; `phases_ms` has every phase, in order.

    `gbps` (10⁹ bytes/s) and `nbytes` are 0 where the start moved no bytes or the source does not say.
    """

    start: str
    tier: str | None
    phases_ms: dict[str, float]
    ttft_ms: float
    gbps: float = 0.0
    nbytes: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> StartSummary | None:
        """Read the object of a `: timeline {…}` comment; None when it is not one."""
        try:
            return _from_fields(msgspec.json.decode(text, type=_Fields))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    @classmethod
    def from_server_timing(cls, header: str) -> StartSummary | None:
        """Read a `Server-Timing` value (W3C Server Timing) of ours; None when it names none of our phases."""
        durations: dict[str, float] = {}
        start = "hot"
        for part in header.split(","):
            match = _METRIC.fullmatch(part.strip())
            if match is None:
                continue
            if match[1] == "start" and match[3]:
                start = match[3]
            elif match[2]:
                durations[match[1]] = _duration(match[2])
        if not durations.keys() & set(PHASES):
            return None
        phases = {phase: durations.get(phase, 0.0) for phase in PHASES}
        return cls(start, None, phases, durations.get("ttft", sum(phases.values())))


class _Fields(msgspec.Struct):
    start: str = "hot"
    tier: str | None = None
    queue: float = 0.0
    place: float = 0.0
    fetch: float = 0.0
    read: float = 0.0
    bind: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    ttft: float = 0.0
    gbps: float = 0.0
    nbytes: int = 0


def _from_fields(fields: _Fields) -> StartSummary:
    phases = {phase: float(getattr(fields, phase)) for phase in PHASES}
    return StartSummary(fields.start, fields.tier, phases, fields.ttft, fields.gbps, fields.nbytes)


def _duration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
