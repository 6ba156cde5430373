# SPDX-License-Identifier: Apache-2.0
"""Where the metadata store is: `metadata.url` as a value. Pure; opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from serverlessllm.errors import ConfigError

Kind = Literal["sqlite", "redis", "etcd"]

KEY: Final = "metadata.url"
_SCHEMES: Final[dict[str, tuple[Kind, bool, int]]] = {
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
    "etcd": ("etcd", False, 2379),
    "etcds": ("etcd", True, 2379),
}
"""Scheme → kind of store, whether by TLS, default port."""
_FORMS: Final = "sqlite[:PATH], redis[s]://HOST[:PORT][/DB] or etcd[s]://HOST[:PORT][,HOST[:PORT]…]"


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """A file (`path`) or servers (`endpoints`, as `host:port`); `database` is Redis's number."""

    kind: Kind
    path: Path | None = None
    endpoints: tuple[str, ...] = ()
    is_tls: bool = False
    database: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"{self.kind} at {', '.join(self.endpoints)}"


def parse_location(url: str, data_path: Path) -> StoreLocation:
    """`url` as `metadata.url` has it; `sqlite` alone is `metadata.sqlite` in `data_path`.

    Raises: ConfigError for another form, and for a URL with a password: flags and files are read by many.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        return StoreLocation(
            "sqlite", path=Path(rest).expanduser() if rest else data_path / "metadata.sqlite"
        )
    if scheme not in _SCHEMES or not rest.startswith("//"):
        raise ConfigError(f"{KEY}: {url.partition('@')[0][:80]!r} is not of the form {_FORMS}", param=KEY)
    kind, is_tls, port = _SCHEMES[scheme]
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{KEY}: write no credentials into it; set SLLM_METADATA_USER and SLLM_METADATA_PASSWORD",
            param=KEY,
        )
    endpoints = tuple(_endpoint(item, port) for item in parts.netloc.split(","))
    database = parts.path.strip("/")
    if kind == "etcd" and database or parts.query or parts.fragment or not (database or "0").isdecimal():
        raise ConfigError(f"{KEY}: {url!r} is not of the form {_FORMS}", param=KEY)
    if kind == "redis" and len(endpoints) > 1:
        raise ConfigError(f"{KEY}: one Redis server, or the address that leads to the primary", param=KEY)
    return StoreLocation(kind, endpoints=endpoints, is_tls=is_tls, database=int(database or 0))


def _endpoint(text: str, default_port: int) -> str:
    """`host[:port]` with its port. Raises ConfigError."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or default_port
    except ValueError:
        host, port = None, 0
    if not host:
        raise ConfigError(f"{KEY}: {text!r} is not HOST or HOST:PORT", param=KEY)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
