# SPDX-License-Identifier: Apache-2.0
"""The files that `aws configure` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.errors import ConfigError
from serverlessllm.sources.access import Access
from serverlessllm.sources.aws_profile import profile_settings
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.s3 import store_settings
from serverlessllm.sources.url_policy import UrlPolicy

KEYS = "[default]\naws_access_key_id = one\naws_secret_access_key = s%cret\n[work]\naws_access_key_id=two\n"


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(KEYS)
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = eu-west-1\n")
    return str(tmp_path)


def settings(**environment: str) -> dict[str, str]:
    return store_settings(Access(HttpAccess(UrlPolicy()), environment))


def test_default_profile_is_read(home: str) -> None:
    assert profile_settings({"HOME": home}) == {
        "aws_access_key_id": "one",
        "aws_secret_access_key": "s%cret",
        "aws_region": "eu-west-1",
    }


def test_no_files_are_no_settings(tmp_path: Path) -> None:
    assert profile_settings({"HOME": str(tmp_path)}) == {}


def test_unknown_profile_is_named(home: str) -> None:
    with pytest.raises(ConfigError, match="'other'"):
        profile_settings({"HOME": home, "AWS_PROFILE": "other"})


def test_broken_file_is_named(home: str) -> None:
    (Path(home) / ".aws" / "config").write_text("no section")
    with pytest.raises(ConfigError, match=r"\.aws/config"):
        profile_settings({"HOME": home})


def test_environment_wins_over_the_profile(home: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-west-2"}
    assert settings(HOME=home, **keys) == {key.lower(): value for key, value in keys.items()}


def test_keys_of_two_places_are_never_mixed(home: str) -> None:
    found = settings(HOME=home, AWS_PROFILE="default", AWS_ACCESS_KEY_ID="env", AWS_SECRET_ACCESS_KEY="x")
    assert (found["aws_access_key_id"], found["aws_secret_access_key"]) == ("env", "x")
