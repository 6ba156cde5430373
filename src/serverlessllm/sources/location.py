# SPDX-License-Identifier: Apache-2.0
"""What people write for where a model lies, and the way from there to its files.

    /path or ./path or an existing path        path
    https://host/dir/  https://host/model.tar.gz  https://host/model.gguf      http
    s3://bucket/prefix                         s3
    hf://org/name[@revision][/path]  org/name[@revision]                       hub

A bare `org/name` is the hub's unless a file or directory of that name exists. Knows media; not formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

from serverlessllm.errors import CorruptDataError, InvalidRequestError
from serverlessllm.sources.access import Access
from serverlessllm.sources.archive import SUFFIXES
from serverlessllm.sources.base import RemoteFile, Source
from serverlessllm.sources.file import FileSource
from serverlessllm.sources.http import HttpSource, display_name
from serverlessllm.sources.http_listing import list_http
from serverlessllm.sources.hub import HubRepository
from serverlessllm.sources.s3 import S3Bucket, check_bucket
from serverlessllm.sources.safe_name import safe_name
from serverlessllm.sources.url_policy import check_form

LocationKind = Literal["path", "http", "s3", "hub"]
FILE_SUFFIXES: Final = (*SUFFIXES, ".gguf", ".safetensors", ".bin", ".pt", ".pth")
"""Endings by which a location is one file; everything else is a directory (`…/llama-3.2`)."""
_REPOSITORY: Final = r"(?P<root>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
_HUB: Final = re.compile(rf"{_REPOSITORY}(?:/(?P<path>.+))?", re.ASCII)
_PINNED: Final = re.compile(r"(?P<commit>[0-9a-f]{40})/(?P<path>.+)", re.ASCII)
_BARE_HUB: Final = re.compile(rf"{_REPOSITORY}(?:@\w[\w.-]{{0,199}})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """One place. `root` is the path, the URL, the bucket or the repository; `prefix` lies below it.

    `revision` is what was asked for of a repository; None: its default branch.
    """

    kind: LocationKind
    root: str
    prefix: str = ""
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Location:
        """Raises: InvalidRequestError saying what may be written instead."""
        if text.startswith("s3://"):
            bucket, _, prefix = text.removeprefix("s3://").partition("/")
            check_bucket(bucket)
            prefix = prefix.strip("/")
            if prefix:
                safe_name(prefix, where=text[:200])
            return cls("s3", bucket, prefix)
        if text.startswith(("http://", "https://")):
            check_form(text)  # before it is written down anywhere: it may hold a password
            return cls("http", text)
        if text.startswith("hf://"):
            return cls._parse_hub(text.removeprefix("hf://"))
        if "://" in text:
            raise InvalidRequestError(
                f"{text.partition('://')[0][:20]!r} is not a kind of source; write a path, http(s)://, s3:// or hf://",
                param="source",
            )
        if _BARE_HUB.fullmatch(text) and not Path(text).expanduser().exists():
            return cls._parse_hub(text)
        return cls("path", text)

    @classmethod
    def _parse_hub(cls, text: str) -> Location:
        name, at, rest = text.partition("@")
        if at:
            found = _HUB.fullmatch(name)
            pinned = _PINNED.fullmatch(rest)
            if found is not None and not found["path"] and pinned is not None:
                path = safe_name(pinned["path"], where=text[:200])
                return cls("hub", found["root"], prefix=path, revision=pinned["commit"])
            # A branch may hold slashes (refs/pr/3), so a path behind it cannot be told apart: it has none.
            if found is None or found["path"] or not re.fullmatch(r"\w[\w./-]{0,199}", rest, re.ASCII):
                raise _no_repository(text)
            return cls("hub", found["root"], revision=rest)
        found = _HUB.fullmatch(text)
        if found is None:
            raise _no_repository(text)
        path = (found["path"] or "").strip("/")
        return cls("hub", found["root"], prefix=safe_name(path, where=text[:200]) if path else "")

    @property
    def name(self) -> str:
        """For people; a URL's query, which may be a signature, is left out."""
        if self.kind == "http":
            return display_name(self.root)
        if self.kind == "path":
            return self.root
        below = f"/{self.prefix}" if self.prefix else ""
        if self.kind == "s3":
            return f"s3://{self.root}{below}"
        return f"hf://{self.root}" + (f"@{self.revision}" if self.revision else "") + below

    @property
    def text(self) -> str:
        """What `parse` makes this location of. A URL's query may be a signature: not for people."""
        return self.root if self.kind == "http" else self.name

    @property
    def file_name(self) -> str | None:
        """The name of the one file that this is, as its ending tells; None for a directory."""
        path = urlsplit(self.root).path if self.kind == "http" else self.prefix
        last = unquote(path.rpartition("/")[2])
        return last if last.lower().endswith(FILE_SUFFIXES) else None

    def key(self, name: str) -> str:
        """The object `name` below `prefix`; the one that `prefix` itself names for an empty name."""
        return "/".join(part for part in (self.prefix, name) if part)

    def url(self, name: str) -> str:
        """The URL of `name` below this http location, which keeps its query; its own for an empty name."""
        if not name:
            return self.root
        parts = urlsplit(self.root)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}", fragment="").geturl()


def _no_repository(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{text[:100]!r} is not a repository; write hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME/FILE",
        param="source",
    )


def open_source(location: Location, name: str, access: Access) -> Source:
    """The object `name` below `location`; with an empty `name` the location itself, for a single file.

    Local files are opened, of others nothing is asked before they are read. Raises: CheckpointFormatError for a
    name that leaves the location; as the sources do.
    """
    if name:
        safe_name(name, where=location.name)
    if location.kind == "path":
        path = Path(location.root).expanduser()
        return FileSource(path / name if name else path)
    if location.kind == "http":
        return HttpSource(location.url(name), access.http)
    if location.kind == "s3":
        return S3Bucket(location.root, access).source(location.key(name))
    return HubRepository(location.root, location.revision, access).source(location.key(name))


def list_files(location: Location, access: Access) -> list[RemoteFile]:
    """Every file below `location`, by safe relative names, sorted. Of the hub: those that a conversion needs.

    Raises: CorruptDataError when there are none; PermissionDeniedError, UnreachableError.
    """
    if location.kind in ("http", "s3") and location.file_name is not None:
        return [RemoteFile(safe_name(location.file_name, where=location.name))]
    if location.kind == "s3":
        return S3Bucket(location.root, access).list(location.prefix)
    if location.kind == "hub":
        return HubRepository(location.root, location.revision, access).list(location.prefix)
    if location.kind == "http":
        return list_http(location.root, access.http)
    root = Path(location.root).expanduser()
    if root.is_file():
        return [RemoteFile(root.name, root.stat().st_size)]
    found = [path for path in root.rglob("*") if path.is_file()]
    if not found:
        raise CorruptDataError(f"{root} holds no files", param="source")
    return sorted(
        (RemoteFile(path.relative_to(root).as_posix(), path.stat().st_size) for path in found),
        key=lambda file: file.name,
    )
