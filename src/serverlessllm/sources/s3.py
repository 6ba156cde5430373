# SPDX-License-Identifier: Apache-2.0
"""Objects in S3 and in what speaks its protocol.

`obstore` finds credentials, signs and lists; the bytes themselves come through our own range reader over signed
links, which moves them at twice the speed of any S3 client that we measured. Knows buckets and keys; not what is in
the objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from serverlessllm.errors import (
    ConfigError,
    CorruptDataError,
    InvalidRequestError,
    PermissionDeniedError,
    UnreachableError,
)
from serverlessllm.sources.access import Access
from serverlessllm.sources.aws_profile import profile_settings
from serverlessllm.sources.base import RemoteFile
from serverlessllm.sources.http import HttpSource
from serverlessllm.sources.safe_name import safe_name

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Store

LINK_LIFETIME: Final = timedelta(hours=1)
"""Renewed when it runs out, so that a leaked one does not stay useful."""
MAX_LISTED_FILES: Final = 10_000
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SETTINGS: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_SKIP_SIGNATURE",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_REQUEST_PAYER",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)


class S3Bucket:
    """One bucket, with the operator's credentials."""

    def __init__(self, bucket: str, access: Access) -> None:
        """Asks nobody. Raises: InvalidRequestError for what is no bucket name; ConfigError without obstore."""
        check_bucket(bucket)
        settings = store_settings(access)
        endpoint = settings.get("aws_endpoint_url") or settings.get("aws_endpoint")
        self.name = bucket
        self.store = _open_store(bucket, settings, access, allow_http=str(endpoint).startswith("http://"))
        self._is_signed = settings.get("aws_skip_signature", "").lower() not in ("1", "true")
        self._http = access.trusting(endpoint) if endpoint else access.http

    def source(self, key: str) -> HttpSource:
        """The object `key`. Nothing is asked before it is read."""
        return HttpSource(lambda: self._link(key), self._http, name=f"s3://{self.name}/{key}")

    def _link(self, key: str) -> str:
        import obstore

        with translated(f"s3://{self.name}/{key}"):
            link = obstore.sign(self.store, "GET", key, LINK_LIFETIME)
        return link if self._is_signed else link.partition("?")[0]

    def list(self, prefix: str) -> list[RemoteFile]:
        """Every object below `prefix` (a whole path segment), by names relative to it, sorted.

        Raises: UnreachableError, PermissionDeniedError; CheckpointFormatError for a name that is no file's;
        CorruptDataError when there are none; InvalidRequestError when there are too many.
        """
        import obstore

        where = f"s3://{self.name}/{prefix}"
        cut = len(prefix) + 1 if prefix else 0
        found: list[RemoteFile] = []
        with translated(where):
            for batch in obstore.list(self.store, prefix or None):
                # Keys with a slash at their end stand for folders in consoles.
                found += [RemoteFile(one["path"][cut:], one["size"]) for one in batch if one["path"][cut:]]
                if len(found) > MAX_LISTED_FILES:
                    raise InvalidRequestError(
                        f"{where} holds more than {MAX_LISTED_FILES} objects", param="source"
                    )
        if not found:
            raise CorruptDataError(f"{where} holds nothing", param="source")
        for file in found:
            safe_name(file.name, where=where)
        return sorted(found, key=lambda file: file.name)


def check_bucket(name: str) -> None:
    """Raises: InvalidRequestError for what is no bucket name."""
    if not _BUCKET.fullmatch(name):
        raise InvalidRequestError(f"s3: {name[:70]!r} is not a bucket name", param="source")


def store_settings(access: Access) -> dict[str, str]:
    """obstore's settings: the environment, else the profile files; a role that the machine has needs neither."""
    environment = access.environment
    found = {
        key.lower(): environment[key] for key in sorted(_SETTINGS & environment.keys()) if environment[key]
    }
    if environment.get("AWS_ENDPOINT_URL_S3"):
        found["aws_endpoint_url"] = environment["AWS_ENDPOINT_URL_S3"]
    if "aws_access_key_id" in found and "AWS_PROFILE" not in environment:
        return found
    profile = profile_settings(environment)
    if "aws_access_key_id" in found:
        profile = {
            key: value for key, value in profile.items() if not key.endswith(("_id", "_key", "_token"))
        }
    if "aws_region" in found or "aws_default_region" in found:
        profile.pop("aws_region", None)
    if "aws_endpoint_url" in found:
        profile.pop("aws_endpoint", None)
    return profile | found


def _open_store(bucket: str, settings: dict[str, str], access: Access, *, allow_http: bool) -> S3Store:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError("s3:// needs obstore; pip install 'serverlessllm[s3]'") from error
    options: ClientConfig = {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=access.http.connect_timeout_s),
        "timeout": timedelta(seconds=access.http.stall_timeout_s * 6),
    }
    if access.ca_file is not None:
        options["root_certificate"] = access.ca_file.read_bytes()
    with translated(f"s3://{bucket}"):
        return S3Store(
            bucket,
            config=settings,  # type: ignore[arg-type]  # its keys are the variables' names in lower case
            client_options=options,
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
        )


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn obstore's errors into ours, naming `where`."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionDeniedError(
            f"{where}: {_first_line(error)}; check the credentials and their rights", param="source"
        ) from error
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise CorruptDataError(f"{where} does not exist", param="source") from error
    except exceptions.UnknownConfigurationKeyError as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from error
    except exceptions.BaseError as error:
        # Refused listings come without a class of their own.
        if any(status in str(error) for status in ("401 Unauthorized", "403 Forbidden")):
            raise PermissionDeniedError(
                f"{where}: access denied; check the credentials and their rights", param="source"
            ) from error
        raise UnreachableError(f"{where}: {_first_line(error)}", source="ingest") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
