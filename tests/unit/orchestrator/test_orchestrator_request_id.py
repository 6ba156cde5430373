# SPDX-License-Identifier: Apache-2.0
"""The id of a request."""

from __future__ import annotations

import pytest

from serverlessllm.orchestrator.request_id import request_id


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_well_formed_id_is_kept(given: str) -> None:
    assert request_id(given, "chat") == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\r\nx: y", "ä", "a/b"])
def test_other_ids_are_replaced(given: str | None) -> None:
    assert request_id(given, "chat").startswith("chatcmpl-")
    assert request_id(given, "completions").startswith("cmpl-")
