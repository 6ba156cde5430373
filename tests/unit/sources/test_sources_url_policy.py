# SPDX-License-Identifier: Apache-2.0
"""Hostile URLs, one table; and what an operator may open."""

from __future__ import annotations

import pytest

from serverlessllm.errors import InvalidRequestError, PermissionDeniedError, UnreachableError
from serverlessllm.sources.url_policy import UrlPolicy

NAMES = {
    "public.example": ["93.184.215.14"],
    "rebind.example": ["93.184.215.14", "127.0.0.1"],
    "inside.example": ["10.1.2.3"],
    "six.example": ["2606:4700::6810:84e5"],
    "nat64.example": ["64:ff9b::808:808"],
    "empty.example": [],
}


def resolve(host: str, port: int) -> list[str]:
    """Names of the table; numbers as the system reads them, without asking anybody."""
    import socket

    if host in NAMES:
        return NAMES[host]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(sockaddr[0]) for *_, sockaddr in found]


POLICY = UrlPolicy(resolve=resolve)
PRIVATE = UrlPolicy(allow_private=True, resolve=resolve)

ALWAYS_DENIED = [
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://224.0.0.1/",
    "http://[ff02::1]/",
]
PRIVATE_ONLY = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://127.255.255.254/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://[fc00::1]/",
    "http://[fd12:3456::1]/",
    "http://rebind.example/",
    "http://inside.example/",
]
MALFORMED = [
    "file:///etc/passwd",
    "ftp://public.example/",
    "gopher://public.example/",
    "//public.example/",
    "public.example/model",
    "http://",
    "http:///path",
    "http://user@public.example/",
    "http://public.example@10.0.0.1/",
    "http://user:secret@public.example/",
    "http://public.example:0/",
    "http://public.example:99999/",
    "http://public.example:x/",
    "http://[::1/",
    "http://public.example\\@10.0.0.1/",
    "http://public.example/a b",
    "http://public.example/\r\nHost: inside",
    "http://public.example/\x00",
    "http://pub\u2024lic.example/",
    "http://public.example/" + "a" * 9000,
]


@pytest.mark.parametrize("url", ALWAYS_DENIED)
def test_metadata_and_link_local_are_denied_even_where_private_is_allowed(url: str) -> None:
    for policy in (POLICY, PRIVATE):
        with pytest.raises(PermissionDeniedError, match="may not be fetched from"):
            policy.check(url)


@pytest.mark.parametrize("url", PRIVATE_ONLY)
def test_private_addresses_need_the_operators_leave(url: str) -> None:
    with pytest.raises(PermissionDeniedError, match=r"ingest\.allow_private_urls"):
        POLICY.check(url)
    assert PRIVATE.check(url).addresses


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a URL that can be fetched"):
        PRIVATE.check(url)


@pytest.mark.parametrize("host", ["public.example", "six.example", "nat64.example", "8.8.8.8"])
def test_public_addresses_pass_and_are_pinned(host: str) -> None:
    target = POLICY.check(f"https://{host}/model.gguf?token=1#part")
    assert (target.port, target.path) == (443, "/model.gguf?token=1")
    assert list(target.addresses) == NAMES.get(host, [host])


def test_advice_is_given_only_where_it_helps() -> None:
    with pytest.raises(PermissionDeniedError, match=r"ingest\.allow_private_urls"):
        POLICY.check("http://10.0.0.1/")
    with pytest.raises(PermissionDeniedError, match=r"metadata service$"):
        POLICY.check("http://169.254.169.254/")


@pytest.mark.parametrize("host", ["empty.example", "no-such-name.invalid"])
def test_name_without_address_is_unreachable(host: str) -> None:
    with pytest.raises(UnreachableError, match=host):
        POLICY.check(f"http://{host}/")


def test_redirect_from_https_to_http_is_denied() -> None:
    here = POLICY.check("https://public.example/")
    with pytest.raises(PermissionDeniedError, match="redirects from https to http"):
        POLICY.check("http://public.example/", coming_from=here)


def test_trusted_origin_is_one_port_of_one_host() -> None:
    policy = POLICY.trusting("http://10.0.0.1:9000/bucket")
    assert policy.check("http://10.0.0.1:9000/other").addresses == ("10.0.0.1",)
    for url in ("http://10.0.0.1:9001/", "https://10.0.0.1:9000/", "http://10.0.0.2:9000/"):
        with pytest.raises(PermissionDeniedError):
            policy.check(url)


def test_messages_show_neither_path_nor_query() -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        POLICY.check("http://10.0.0.1/secret?token=secret")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "netloc"),
    [
        ("http://public.example:80/", "public.example"),
        ("https://public.example:8443/", "public.example:8443"),
        ("http://[2606:4700::6810:84e5]:8080/", "[2606:4700::6810:84e5]:8080"),
    ],
)
def test_host_header_is_what_servers_expect(url: str, netloc: str) -> None:
    assert POLICY.check(url).netloc == netloc
