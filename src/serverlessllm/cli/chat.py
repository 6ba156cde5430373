# SPDX-License-Identifier: Apache-2.0
"""`sllm chat`: talk to a model in the terminal; shows how it wakes, and where the time went."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_error, print_json, show
from serverlessllm.errors import SllmError

if TYPE_CHECKING:
    from serverlessllm.cli.answer import Answer
    from serverlessllm.sdk.orchestrator import Client

LEAVE = ("/bye", "/exit", "/quit")


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What holds for every turn. None leaves a parameter to the server."""

    model: str
    system: str | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    show_timeline: bool

    def opening(self) -> list[dict[str, object]]:
        """The messages with which a conversation starts."""
        return [{"role": "system", "content": self.system}] if self.system else []


@click.command(epilog=exit_codes.EPILOG)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", help="The system message.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option(
    "--timeline/--no-timeline", default=None, help="Print where the time went (default: on a terminal)."
)
@server_options
def chat(
    session: Session,
    model: str,
    prompt: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    timeline: bool | None,
) -> None:
    """Talk to MODEL: one PROMPT, or a conversation.

    A sleeping model wakes; the line on stderr says how far it is. PROMPT is read from stdin when that is a pipe.
    """
    show_timeline = sys.stderr.isatty() if timeline is None else timeline
    options = ChatOptions(model, system, temperature, max_tokens, seed, show_timeline)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    with session.client() as client:
        if prompt is not None:
            _ask_once(client, options, prompt, session.as_json)
        elif session.as_json:
            raise click.UsageError("--json needs a PROMPT")
        else:
            _converse(client, options)


def _ask_once(client: Client, options: ChatOptions, prompt: str, as_json: bool) -> None:
    messages = options.opening()
    messages.append({"role": "user", "content": prompt})
    answer = _stream(client, options, messages, is_silent=as_json)
    if as_json:
        print_json(answer.as_document(options.model))


def _converse(client: Client, options: ChatOptions) -> None:
    """Turn by turn, until end of input; Ctrl-C stops an answer, and at the prompt the command."""
    import readline  # noqa: F401  # gives input() its line editing and history

    client.get_model(options.model)
    note(f"talking to {options.model}; /reset forgets, /bye or Ctrl-D leaves, Ctrl-C stops an answer")
    messages = options.opening()
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo()
            return
        if line in LEAVE:
            return
        if line == "/reset":
            messages = options.opening()
        elif line:
            messages.append({"role": "user", "content": line})
            _turn(client, options, messages)


def _turn(client: Client, options: ChatOptions, messages: list[dict[str, object]]) -> None:
    """One answer of a conversation; what fails or is stopped is forgotten, and the conversation goes on."""
    try:
        answer = _stream(client, options, messages, is_silent=False)
    except KeyboardInterrupt:
        click.echo()
        messages.pop()
    except SllmError as error:
        print_error(error.message)
        messages.pop()
    else:
        messages.append({"role": "assistant", "content": answer.text})


def _stream(
    client: Client, options: ChatOptions, messages: list[dict[str, object]], *, is_silent: bool
) -> Answer:
    from serverlessllm.cli.answer import Answer, AnswerPrinter
    from serverlessllm.cli.waterfall import waterfall

    answer = Answer()
    items = client.chat(
        options.model,
        messages,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )
    with closing(items), AnswerPrinter(is_silent=is_silent) as printer:
        for item in items:
            answer.take(item)
            printer.draw(item)
    if options.show_timeline and not is_silent and answer.summary is not None:
        show(waterfall(answer.summary), is_error=True)
    return answer
