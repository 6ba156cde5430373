# SPDX-License-Identifier: Apache-2.0
"""What lies in a directory of a web server: named by an artifact's index, or by the server's own listing."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from serverlessllm.checkpoint.index import CheckpointIndex
from serverlessllm.checkpoint.spec import INDEX_NAME, MAX_INDEX_BYTES
from serverlessllm.errors import CorruptDataError
from serverlessllm.sources.base import RemoteFile
from serverlessllm.sources.http import display_name
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.http_document import read_document
from serverlessllm.sources.safe_name import safe_name

MAX_LISTING_BYTES: Final = 4 << 20


def list_http(url: str, access: HttpAccess) -> list[RemoteFile]:
    """The files of the directory `url`.

    Of a listing only links to names in that very directory count. Sorted. Raises: CorruptDataError when there is
    nothing; as the sources do.
    """
    parts = urlsplit(url)
    directory = parts._replace(path=parts.path.rstrip("/") + "/", fragment="").geturl()
    try:
        data, _ = read_document(urljoin(directory, INDEX_NAME), access, max_bytes=MAX_INDEX_BYTES)
    except CorruptDataError:  # there is none
        return _listed(directory, access)
    index = CheckpointIndex.parse(data)
    names = {INDEX_NAME: len(data)} | {entry.name: entry.nbytes for entry in index.files}
    weights = {encoding.file for shard in index.shards for encoding in shard.encodings}
    return [RemoteFile(name, names.get(name)) for name in sorted(names.keys() | weights)]


def _listed(directory: str, access: HttpAccess) -> list[RemoteFile]:
    page, base = read_document(directory, access, max_bytes=MAX_LISTING_BYTES)
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    found = {name for href in links.found if (name := _name_in(base, href)) is not None}
    if not found:
        raise CorruptDataError(f"{display_name(directory)} lists no files", param="source")
    return [RemoteFile(safe_name(name, where=display_name(directory))) for name in sorted(found)]


def _name_in(base: str, href: str) -> str | None:
    """The name that `href` has in the directory `base`; None for other places, folders and sorting links."""
    try:
        here, there = urlsplit(base), urlsplit(urljoin(base, href))
    except ValueError:
        return None
    if (here.scheme, here.netloc) != (there.scheme, there.netloc) or there.query:
        return None
    if not there.path.startswith(here.path):
        return None
    name = unquote(there.path.removeprefix(here.path))
    return name if name and "/" not in name else None


class _Links(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]
