# SPDX-License-Identifier: Apache-2.0
"""Spans as values: what was done for whom, from when to when. Who made them decides nothing about where they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serverlessllm.wire.trace_context import TraceContext

SpanKind = Literal["server", "internal"]
Part = Literal["orchestrator", "agent", "engine"]
"""Who did the work. An engine's spans are told by its worker and sent by its agent."""
Attribute = str | bool | int | float


@dataclass(frozen=True, slots=True)
class Span:
    """`start_s` and `end_s` are Unix time. `error`: why it failed; empty when it did not."""

    name: str
    context: TraceContext
    part: Part
    start_s: float
    end_s: float
    kind: SpanKind = "internal"
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""


class SpanSink(Protocol):
    """Where spans go."""

    def add(self, span: Span) -> None:
        """Take a span that has ended; returns at once, never raises."""

    def close(self) -> None:
        """Send what is left; blocks for a few seconds at most."""
