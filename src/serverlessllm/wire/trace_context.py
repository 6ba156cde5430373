# SPDX-License-Identifier: Apache-2.0
"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which trace, and which span of it, work belongs to.

Travels between processes as the header `traceparent`, within one in a context variable, which tasks inherit. Knows no
exporter. `tracestate` of other vendors is not kept, as the recommendation allows.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_CHARS: Final = 512
_SAMPLED: Final = 0x01
_RATIO_BITS: Final = 63


class TraceContext(NamedTuple):
    """One span: its trace (32 hex digits), its own id (16), whether it is recorded, its parent (empty: none)."""

    trace_id: str
    span_id: str
    is_sampled: bool
    parent_span_id: str = ""

    def header(self) -> str:
        """The value of `traceparent` for who works on behalf of this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    def child(self) -> TraceContext:
        """A new span below this one."""
        return TraceContext(self.trace_id, _hex(64), self.is_sampled, self.span_id)


def new_trace(sample_ratio: float) -> TraceContext:
    """The first span of a trace; so many of them are recorded, chosen by the trace's id as OpenTelemetry does."""
    number = random.getrandbits(128) or 1
    is_sampled = number & ((1 << _RATIO_BITS) - 1) < round(sample_ratio * (1 << _RATIO_BITS))
    return TraceContext(f"{number:032x}", _hex(64), is_sampled)


def parse(header: str | None) -> TraceContext | None:
    """The span that `traceparent` names; None for what is missing or malformed, which starts a trace anew."""
    match = _FORM.fullmatch(header) if header and len(header) <= _MAX_CHARS else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


_current: ContextVar[TraceContext | None] = ContextVar("sllm_trace", default=None)


def current() -> TraceContext | None:
    """What this task, or the task that started it, works for."""
    return _current.get()


def enter(context: TraceContext | None) -> None:
    """From here on this task works for `context`, or for nobody known."""
    _current.set(context)


def current_header() -> str:
    """`traceparent` for a call made on behalf of the current span; empty when there is none."""
    context = _current.get()
    return "" if context is None else context.header()


def _hex(num_bits: int) -> str:
    return f"{random.getrandbits(num_bits) or 1:0{num_bits // 4}x}"
