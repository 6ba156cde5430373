# SPDX-License-Identifier: Apache-2.0
"""`metadata.url`: which forms are taken, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.errors import ConfigError
from serverlessllm.metadata.location import StoreLocation, parse_location

HOME = Path("/data")


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("sqlite", StoreLocation("sqlite", path=HOME / "metadata.sqlite")),
        ("sqlite:", StoreLocation("sqlite", path=HOME / "metadata.sqlite")),
        ("sqlite:/x/m.db", StoreLocation("sqlite", path=Path("/x/m.db"))),
        ("redis://h", StoreLocation("redis", endpoints=("h:6379",))),
        ("rediss://h:1/3", StoreLocation("redis", endpoints=("h:1",), is_tls=True, database=3)),
        ("etcd://a,b:5,[::1]:7", StoreLocation("etcd", endpoints=("a:2379", "b:5", "[::1]:7"))),
        ("etcds://a", StoreLocation("etcd", endpoints=("a:2379",), is_tls=True)),
    ],
)
def test_known_form_is_taken(url: str, location: StoreLocation) -> None:
    assert parse_location(url, HOME) == location


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "mysql://h",
        "redis:/h",
        "redis://",
        "redis://h/x",
        "redis://a,b",
        "etcd://h/1",
        "etcd://h:x",
    ],
)
def test_other_form_is_refused_with_the_setting_named(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_location(url, HOME)
    assert caught.value.param == "metadata.url"


def test_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="SLLM_METADATA_PASSWORD") as caught:
        parse_location("redis://user:hunter2@h", HOME)
    assert "hunter2" not in caught.value.message
