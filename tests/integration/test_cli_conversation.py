# SPDX-License-Identifier: Apache-2.0
"""`sllm chat` on a terminal of its own: the conversation, and Ctrl-C in the middle of an answer."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from serverlessllm.cli.exit_codes import INTERRUPTED, OK
from support.model_dirs import write_simulated
from support.platform import PATIENCE_S, Platform, eventually


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, url: str, *arguments: str) -> None:
        self._fd, child_fd = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serverlessllm.cli.main", *arguments],
            stdin=child_fd,
            stdout=child_fd,
            stderr=child_fd,
            env={**os.environ, "SLLM_URL": url, "TERM": "xterm", "COLUMNS": "100"},
            start_new_session=True,
        )
        os.close(child_fd)
        self.seen = ""
        self._read = 0

    def write(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` was printed after what the last call waited for."""
        while (found := self.seen.find(text, self._read)) < 0:
            ready, _, _ = select.select([self._fd], [], [], PATIENCE_S)
            assert ready, f"{text!r} did not come; seen {self.seen[self._read :]!r}"
            try:
                self.seen += os.read(self._fd, 65536).decode(errors="replace")
            except OSError as error:  # the command ended and closed the terminal
                raise AssertionError(f"{text!r} did not come; seen {self.seen[self._read :]!r}") from error
        self._read = found + len(text)

    def status(self) -> int:
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home: Path = tmp_path_factory.mktemp("talk")
    with Platform(home, engine_simulated_load_s="0.6", engine_simulated_token_s="0.02") as running:
        running.add("sim", write_simulated(home / "sim"))
        yield running


def test_conversation_keeps_its_turns_until_it_is_left(platform: Platform) -> None:
    with Terminal(platform.url, "chat", "sim", "--max-tokens", "4") as terminal:
        terminal.wait_for("> ")
        terminal.write("Hello\n")
        terminal.wait_for("first token after")
        terminal.wait_for("> ")
        terminal.write("And again\n")
        terminal.wait_for("first token after")
        terminal.write("/bye\n")
        assert terminal.status() == OK
    with platform.client() as client:
        second, first = client.requests(2)
    assert second.prompt_tokens > first.prompt_tokens + 4


def test_interrupt_stops_the_answer_and_the_conversation_goes_on(platform: Platform) -> None:
    with Terminal(platform.url, "chat", "sim", "--max-tokens", "4000") as terminal:
        terminal.wait_for("> ")
        terminal.write("Hello\n")
        with platform.client() as client:
            eventually(lambda: client.requests(1)[0].state == "running")
            terminal.process.send_signal(signal.SIGINT)
            terminal.wait_for("> ")
            eventually(lambda: client.requests(1)[0].state == "cancelled")
        terminal.write("/bye\n")
        assert terminal.status() == OK


def test_interrupt_of_a_single_prompt_is_status_130(platform: Platform) -> None:
    arguments = ("chat", "sim", "Hello", "--max-tokens", "4000")
    with Terminal(platform.url, *arguments) as terminal, platform.client() as client:
        eventually(lambda: client.requests(1)[0].state == "running")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.status() == INTERRUPTED
        eventually(lambda: client.requests(1)[0].state == "cancelled")


def test_waking_is_told_on_one_line_that_is_erased(platform: Platform) -> None:
    with platform.client() as client:
        client.stop_model("sim")
    with Terminal(platform.url, "chat", "sim", "Hello", "--max-tokens", "4") as terminal:
        terminal.wait_for("first token after")
        assert terminal.status() == OK
    assert "\r\x1b[2K" in terminal.seen
