# SPDX-License-Identifier: Apache-2.0
"""The keys, region and endpoint that `aws configure` wrote down, for when the environment names none.

`obstore` itself knows the `AWS_*` variables, web identities, container roles and instance roles; the profile files
are the one link of the usual chain that it leaves out. Profiles that run a program or open a browser are not read.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serverlessllm.errors import ConfigError

_KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_SETTINGS: Final = {"region": "aws_region", "endpoint_url": "aws_endpoint"}


def profile_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings in obstore's names from `~/.aws/credentials` and `~/.aws/config`, or none.

    The profile is `AWS_PROFILE` or `default`; the files may be moved by `AWS_SHARED_CREDENTIALS_FILE` and
    `AWS_CONFIG_FILE`. Raises: ConfigError when a file is malformed, or the named profile is in neither.
    """
    profile = environment.get("AWS_PROFILE", "default")
    home = Path(environment.get("HOME", "~")).expanduser()
    keys = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE"), home / ".aws" / "credentials", profile)
    section = profile if profile == "default" else f"profile {profile}"
    config = _section(environment.get("AWS_CONFIG_FILE"), home / ".aws" / "config", section)
    if "AWS_PROFILE" in environment and not keys and not config:
        raise ConfigError(f"AWS_PROFILE names {profile!r}, which the files in {home / '.aws'} do not have")
    merged = {**config, **keys}
    found = {key: merged[key] for key in _KEYS if merged.get(key)}
    return found | {ours: config[theirs] for theirs, ours in _SETTINGS.items() if config.get(theirs)}


def _section(named: str | None, default: Path, section: str) -> dict[str, str]:
    path = Path(named).expanduser() if named else default
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return dict(parser[section]) if parser.has_section(section) else {}
