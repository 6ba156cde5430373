# SPDX-License-Identifier: Apache-2.0
"""The web console: a page that the orchestrator serves at `/`, its files under `/console/`.

No build step and no outside host. Knows no HTTP server; `assets` says what to answer where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from blake3 import blake3

CONTENT_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""For every answer below: no inline code, no outside host, no frame around us."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is answered; `etag` changes with its bytes."""

    content_type: str
    body: bytes
    etag: str

    def headers(self) -> dict[str, str]:
        """Revalidated at every load, so that an upgraded server is never shown by an old page."""
        return {
            **SECURITY_HEADERS,
            "Content-Type": self.content_type,
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }


@cache
def assets() -> dict[str, Asset]:
    """URL path → file, read once from the package."""
    found: dict[str, Asset] = {}
    for entry in files(__name__).iterdir():
        content_type = CONTENT_TYPES.get(entry.name.rpartition(".")[2])
        if content_type is None:
            continue
        body = entry.read_bytes()
        path = "/" if entry.name == "index.html" else f"/console/{entry.name}"
        found[path] = Asset(content_type, body, f'"{blake3(body).hexdigest()[:16]}"')
    return found
