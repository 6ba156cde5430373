# SPDX-License-Identifier: Apache-2.0
"""However messages are lost, late or repeated: a reader gets ids of one side, and one side has the request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.errors import SllmError
from serverlessllm.migration.ownership import DestinationSide, SourceSide


class Move:
    """Both sides, and the reader between them, who follows one and only one."""

    def __init__(self) -> None:
        self.source, self.destination = SourceSide(), DestinationSide()
        self.reads_destination = False
        self.is_fenced = False

    def hand_over(self, is_delivered: bool, is_answered: bool) -> None:
        """`go`, which may be lost on either way."""
        if self.source.state != "preparing":
            return
        self.source.on("hand_over")
        if is_delivered:
            self.destination.on("go")
        if not is_delivered or not is_answered:
            self.source.on("unanswered")
        else:
            self.source.on("accepted" if self.destination.may_emit else "refused")

    def ask_again(self, is_answered: bool) -> None:
        """The source wants to know: it aborts what has not begun."""
        if self.source.state != "unknown" or not is_answered:
            return
        after = self.destination.on("abort")
        self.source.on("refused" if after == "aborted" else "accepted")

    def attach(self) -> None:
        """The reader tries the destination."""
        if self.destination.may_emit and not self.is_fenced:
            self.destination.on("claim")
            self.reads_destination = True

    def reclaim(self) -> None:
        """The reader goes back to the source, and forbids the destination to come back."""
        if self.source.state in ("handing_over", "unknown", "moved") and not self.reads_destination:
            self.is_fenced = True
            self.source.on("reclaim")

    @property
    def num_heard(self) -> int:
        """Sides whose ids reach the reader."""
        return int(self.reads_destination) + int(self.source.may_emit and not self.reads_destination)


steps = st.lists(
    st.tuples(st.sampled_from(["hand_over", "ask_again", "attach", "reclaim"]), st.booleans(), st.booleans()),
    max_size=12,
)


@given(steps)
def test_reader_hears_one_side_and_the_request_is_never_nowhere(script: list[tuple[str, bool, bool]]) -> None:
    move = Move()
    for name, is_delivered, is_answered in script:
        if name == "hand_over":
            move.hand_over(is_delivered, is_answered)
        elif name == "ask_again":
            move.ask_again(is_answered)
        elif name == "attach":
            move.attach()
        else:
            move.reclaim()
        assert move.num_heard <= 1
        if move.source.state == "moved":
            assert move.destination.may_emit
    move.attach()
    move.reclaim()
    assert move.num_heard == 1


def test_destination_that_began_cannot_be_aborted_and_one_that_was_aborted_cannot_begin() -> None:
    begun, aborted = DestinationSide(), DestinationSide()
    begun.on("go")
    aborted.on("abort")
    assert begun.on("abort") == "live"
    assert aborted.on("go") == "aborted"


def test_event_out_of_place_is_an_error_that_says_so() -> None:
    with pytest.raises(SllmError, match="preparing cannot accepted"):
        SourceSide().on("accepted")
