# SPDX-License-Identifier: Apache-2.0
"""What every command that talks to a server shares: where it is, who asks, and how the answer is shown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import click

from serverlessllm.cli.terminal import print_json
from serverlessllm.config import environment
from serverlessllm.errors import SllmError

if TYPE_CHECKING:
    from serverlessllm.sdk.orchestrator import Client

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_URL: Final = "http://127.0.0.1:8343"


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation's server, key and form of output."""

    url: str
    api_key: str | None
    as_json: bool
    ca: str | None = None

    def client(self) -> Client:
        """A client to use in a `with`; opens no connection by itself."""
        from serverlessllm.sdk.orchestrator import Client

        return Client(self.url, api_key=self.api_key, ca=self.ca)


def json_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds `--json`; a failure is then also one JSON document on stdout."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SllmError as error:
            if kwargs.get("as_json"):
                print_json(error.as_openai())
            raise

    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(run)


def server_options(function: Callable[Concatenate[Session, P], R]) -> Callable[..., R]:
    """Adds `--url`, `--api-key` and `--json`; the command gets a `Session` as its first argument."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        url, api_key, as_json = kwargs.pop("url"), kwargs.pop("api_key"), kwargs.pop("as_json")
        ca = _text(kwargs.pop("ca")) or environment("SLLM_CA")
        session = Session(
            url=_text(url) or environment("SLLM_URL") or DEFAULT_URL,
            api_key=_text(api_key) or environment("SLLM_API_KEY"),
            as_json=bool(as_json),
            ca=ca,
        )
        try:
            return function(session, *args, **kwargs)
        except SllmError as error:
            if session.as_json:
                print_json(error.as_openai())
            raise

    options = (
        click.option("--url", help=f"The server; else SLLM_URL, else {DEFAULT_URL}."),
        click.option("--api-key", help="The key to call it with; else SLLM_API_KEY."),
        click.option("--ca", help="PEM file to check the server's certificate against; else SLLM_CA."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )
    decorated: Callable[..., R] = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _text(value: object) -> str | None:
    return str(value) if value else None
