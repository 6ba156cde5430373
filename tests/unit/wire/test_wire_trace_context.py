# SPDX-License-Identifier: Apache-2.0
"""W3C trace context: what is accepted, what is passed on, who is sampled."""

from __future__ import annotations

import pytest

from serverlessllm.wire.trace_context import new_trace, parse

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_header_of_a_caller_is_understood_and_written_alike() -> None:
    context = parse(f"00-{TRACE_ID}-{SPAN_ID}-01")
    assert context is not None and context.is_sampled
    assert context.header() == f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_child_is_of_the_same_trace_below_its_parent() -> None:
    parent = parse(f"00-{TRACE_ID}-{SPAN_ID}-00")
    assert parent is not None
    child = parent.child()
    assert (child.trace_id, child.parent_span_id, child.is_sampled) == (TRACE_ID, SPAN_ID, False)
    assert child.span_id != SPAN_ID and parse(child.header()) is not None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}-01\r\nx-evil: 1",
        f"01-{TRACE_ID}-{SPAN_ID}-01-{'a' * 600}",
    ],
)
def test_header_that_is_malformed_starts_a_trace_anew(header: str | None) -> None:
    assert parse(header) is None


def test_later_version_of_the_header_is_read_as_far_as_we_know_it() -> None:
    context = parse(f"01-{TRACE_ID}-{SPAN_ID}-03-what-ever")
    assert context is not None and context.is_sampled and context.header().startswith("00-")


def test_sample_ratio_is_the_share_of_traces_that_are_recorded() -> None:
    assert not any(new_trace(0.0).is_sampled for _ in range(100))
    assert all(new_trace(1.0).is_sampled for _ in range(100))
    assert 300 < sum(new_trace(0.5).is_sampled for _ in range(1000)) < 700
