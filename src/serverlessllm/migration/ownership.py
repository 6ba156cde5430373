# SPDX-License-Identifier: Apache-2.0
"""Who may hand out the ids of a request while it moves. Pure; `docs/migration.md` draws it.

    source        event          → becomes          destination   event     → becomes
    preparing     hand_over      → handing_over     preparing     go        → live
                  fail           → stayed                         abort     → aborted
                  end            → ended            live          claim     → claimed (a reader attached)
    handing_over  accepted       → moved                          abort     → live (it is too late)
                  refused        → stayed           aborted       go        → aborted (it is refused)
                  unanswered     → unknown          claimed       abort     → claimed
    unknown       accepted       → moved
                  refused        → stayed
                  reclaim        → stayed (the orchestrator read on here)
    moved         reclaim        → stayed (while the copy is kept: until the reader has left)

Between `hand_over` and the outcome the source decodes on and keeps what it samples to itself: the reader gets ids of
exactly one side, whichever he is attached to. He is the orchestrator, and there is one. `unknown` is the only state
in which both sides may hold a copy; it ends by the destination's answer, or by the orchestrator, who reads on at the
source and fences the destination with a later run, or by the grace that a copy without a reader has.
"""

from __future__ import annotations

from typing import Final, Literal

from serverlessllm.errors import SllmError

SourceState = Literal["preparing", "handing_over", "unknown", "moved", "stayed", "ended"]
SourceEvent = Literal["hand_over", "fail", "end", "accepted", "refused", "unanswered", "reclaim"]
DestinationState = Literal["preparing", "live", "claimed", "aborted"]
DestinationEvent = Literal["go", "claim", "abort"]

_SOURCE: Final[dict[tuple[SourceState, SourceEvent], SourceState]] = {
    ("preparing", "hand_over"): "handing_over",
    ("preparing", "fail"): "stayed",
    ("preparing", "end"): "ended",
    ("handing_over", "accepted"): "moved",
    ("handing_over", "refused"): "stayed",
    ("handing_over", "unanswered"): "unknown",
    ("handing_over", "reclaim"): "stayed",
    ("unknown", "accepted"): "moved",
    ("unknown", "refused"): "stayed",
    ("unknown", "reclaim"): "stayed",
    ("moved", "reclaim"): "stayed",
    ("stayed", "reclaim"): "stayed",
    ("stayed", "accepted"): "stayed",
    ("stayed", "refused"): "stayed",
    ("stayed", "unanswered"): "stayed",
}
_DESTINATION: Final[dict[tuple[DestinationState, DestinationEvent], DestinationState]] = {
    ("preparing", "go"): "live",
    ("preparing", "abort"): "aborted",
    ("live", "go"): "live",
    ("live", "claim"): "claimed",
    ("live", "abort"): "live",
    ("aborted", "go"): "aborted",
    ("aborted", "abort"): "aborted",
    ("claimed", "go"): "claimed",
    ("claimed", "claim"): "claimed",
    ("claimed", "abort"): "claimed",
}


class SourceSide:
    """The source's view of one move."""

    def __init__(self) -> None:
        self.state: SourceState = "preparing"

    def on(self, event: SourceEvent) -> SourceState:
        """Take an event. Raises SllmError for one that cannot come now."""
        after = _SOURCE.get((self.state, event))
        if after is None:
            raise SllmError(f"a move that is {self.state} cannot {event}", source="agent")
        self.state = after
        return after

    @property
    def may_emit(self) -> bool:
        """Whether readers get ids from the source."""
        return self.state in ("preparing", "stayed", "ended")

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self.state in ("moved", "stayed", "ended")


class DestinationSide:
    """The destination's view of one move."""

    def __init__(self) -> None:
        self.state: DestinationState = "preparing"

    def on(self, event: DestinationEvent) -> DestinationState:
        """Take an event. Raises SllmError for one that cannot come now."""
        after = _DESTINATION.get((self.state, event))
        if after is None:
            raise SllmError(f"a prepared request that is {self.state} cannot {event}", source="agent")
        self.state = after
        return after

    @property
    def may_emit(self) -> bool:
        """Whether readers get ids from the destination."""
        return self.state in ("live", "claimed")
