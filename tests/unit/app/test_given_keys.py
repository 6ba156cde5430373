# SPDX-License-Identifier: Apache-2.0
"""Keys that a deployment brings along: which are taken, and that a bad one is named without being shown."""

from __future__ import annotations

import pytest

from serverlessllm.app.given_keys import parse_given_keys
from serverlessllm.errors import ConfigError

ADMIN = "sk-sllm-" + "a" * 43
NODE = "sk-sllm-" + "n" * 43


def test_given_keys_are_read_with_their_roles() -> None:
    assert parse_given_keys(f"admin={ADMIN},node={NODE}") == [("admin", ADMIN), ("node", NODE)]
    assert parse_given_keys("") == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"root={ADMIN}", "one of infer, admin, node"),
        (ADMIN, "one of infer, admin, node"),
        ("admin=sk-sllm-short", "at least 32 random characters"),
        ("admin=" + "x" * 60, "must be sk-sllm-"),
        (f"node={NODE}", "give an admin key too"),
    ],
)
def test_bad_given_key_is_refused_with_its_reason_and_never_shown(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        parse_given_keys(text)
    assert not any(secret in refused.value.message for secret in (ADMIN, NODE, "xxxx", "short"))
