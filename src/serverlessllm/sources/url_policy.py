# SPDX-License-Identifier: Apache-2.0
"""Which URLs we may fetch: the rules against requests forged through us (SSRF).

A URL is judged by the addresses that its host resolves to, once; the answer names these addresses, and whoever
connects uses them and never resolves again, so that a name cannot change its mind between check and use. Spellings
of loopback (`127.1`, `0x7f000001`, `[::ffff:127.0.0.1]`) therefore need no rule of their own.

Knows nothing of HTTP. Redirects are URLs: they pass `check` like the first one.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from serverlessllm.errors import InvalidRequestError, PermissionDeniedError, UnreachableError

MAX_URL_BYTES: Final = 8192
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Origin = tuple[str, str, int]
"""(scheme, host, port), the host in lower case."""

_PLATFORM_ADDRESSES: Final = frozenset(
    {
        ipaddress.ip_address(
            "168.63.129.16"
        ),  # Azure's wire server: public by its number, private by its use
        ipaddress.ip_address("100.100.100.200"),  # Alibaba Cloud's metadata
        ipaddress.ip_address("192.0.0.192"),  # Oracle Cloud's metadata, older images
        ipaddress.ip_address("fd00:ec2::254"),  # AWS's metadata over IPv6
        ipaddress.ip_address("fd20:ce::254"),  # Google Cloud's metadata over IPv6
    }
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE: Final = ipaddress.ip_network("::/96")

Resolve = Callable[[str, int], list[str]]
"""(host, port) → the numeric addresses, best first. Raises OSError."""


def resolve(host: str, port: int) -> list[str]:
    """The system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched, and the addresses to connect to, best first.

    `path` is what goes into the request line: path and query, and may hold a signature; never show it.
    """

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...]

    @property
    def origin(self) -> Origin:
        """Who is asked; credentials are for one origin only."""
        return (self.scheme, self.host, self.port)

    @property
    def netloc(self) -> str:
        """The Host header: host, bracketed when it is an IPv6 address, and the port unless it is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """The rules. `trusted` origins were named by the operator (an S3 endpoint, a hub mirror), not by a user.

    `allow_private` admits private and loopback addresses; link-local ones and the clouds' metadata services stay
    out in any case, except as a trusted origin.
    """

    allow_private: bool = False
    trusted: frozenset[Origin] = frozenset()
    resolve: Resolve = field(default=resolve, compare=False)

    def check(self, url: str, *, coming_from: Target | None = None) -> Target:
        """Judge `url`; `coming_from` is what redirected to it.

        Raises: InvalidRequestError for what is no plain http(s) URL; PermissionDeniedError naming the rule that
        it breaks; UnreachableError when the name does not resolve. Messages name the host, never path or query.
        """
        parts, port = _split(url)
        host = str(parts.hostname)
        if coming_from is not None and coming_from.scheme == "https" and parts.scheme == "http":
            raise _denied(host, f"{coming_from.host} redirects from https to http")
        try:
            addresses = self.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise UnreachableError(f"cannot resolve {host}: {error}; check the name", param="url") from error
        if not addresses:
            raise UnreachableError(f"{host} has no address; check the name", param="url")
        if (parts.scheme, host, port) not in self.trusted:
            for address in addresses:
                self._check_address(host, address)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, path, tuple(addresses))

    def trusting(self, url: str) -> UrlPolicy:
        """The same rules, with the origin of `url` trusted. Raises: InvalidRequestError."""
        parts, port = _split(url)
        origin = (parts.scheme, str(parts.hostname), port)
        return UrlPolicy(self.allow_private, self.trusted | {origin}, self.resolve)

    def _check_address(self, host: str, text: str) -> None:
        # A scope id (fe80::1%eth0) is no part of the number.
        for address in _readings(ipaddress.ip_address(text.partition("%")[0])):
            rule = _broken_rule(address, self.allow_private)
            if rule is None:
                continue
            can_be_allowed = _broken_rule(address, True) is None
            advice = "an operator can allow private addresses with ingest.allow_private_urls"
            raise _denied(host, f"{text} is {rule}" + (f"; {advice}" if can_be_allowed else ""))


def check_form(url: str) -> None:
    """Whether this is a plain http(s) URL; resolves nothing. Raises: InvalidRequestError, without the URL in it."""
    _split(url)


def _split(url: str) -> tuple[SplitResult, int]:
    """The parts of a plain http(s) URL and its port. Raises: InvalidRequestError."""
    if len(url.encode("utf-8", "replace")) > MAX_URL_BYTES:
        raise _invalid(f"longer than {MAX_URL_BYTES} bytes")
    if any(ord(char) <= 0x20 or ord(char) >= 0x7F or char == "\\" for char in url):
        raise _invalid(
            "white space, control and non-ASCII characters and backslashes must be percent-encoded"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid(str(error)) from error
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid(f"scheme {parts.scheme[:20]!r} is not http or https")
    if "@" in parts.netloc:
        raise _invalid("credentials do not belong in a URL")
    if not parts.hostname or port == 0:
        raise _invalid("it names no host to connect to")
    return parts, port or DEFAULT_PORTS[parts.scheme]


def _readings(address: Address) -> list[Address]:
    """The addresses that packets to `address` may end at: itself, or the IPv4 address that it carries."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1):
        return [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    return [address, *(address.teredo or ())]


def _broken_rule(address: Address, allow_private: bool) -> str | None:
    """What kind of address we may not talk to, or None."""
    if address in _PLATFORM_ADDRESSES or address.is_link_local:
        return "a link-local address or a cloud's metadata service"
    if address.is_unspecified or address.is_multicast:
        return "no address of one machine"
    if allow_private:
        return None
    if address.is_loopback:
        return "a loopback address"
    if not address.is_global or address.is_reserved:
        return "a private or reserved address"
    return None


def _invalid(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"not a URL that can be fetched: {reason}", param="url")


def _denied(host: str, reason: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{host[:100]} may not be fetched from: {reason}", param="url")
