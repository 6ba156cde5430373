# SPDX-License-Identifier: Apache-2.0
"""A bar on stderr for long work: how far it is, what is left. Silent where stderr is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class ByteProgress:
    """Use in a `with`; call `update` as often as you like.

    `is_shown` False draws nothing, so that callers need no case of their own (`--json`, a pipe).
    """

    def __init__(self, text: str, *, is_shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (is_shown and console.is_terminal),
        )
        self._task = self._progress.add_task(text, total=None)

    def update(self, done_bytes: int, total_bytes: int) -> None:
        """`total_bytes` 0 = not known yet."""
        self._progress.update(self._task, completed=done_bytes, total=total_bytes or None)

    def describe(self, text: str) -> None:
        """Say what is going on now."""
        self._progress.update(self._task, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class ShareProgress:
    """For work that knows which share of it is done. Use in a `with`; `is_shown` as for `ByteProgress`."""

    def __init__(self, text: str, *, is_shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (is_shown and console.is_terminal),
        )
        self._task = self._progress.add_task(text, total=1.0)

    def update(self, text: str, share: float) -> None:
        """`share` is from 0 to 1; `text` says what is going on."""
        self._progress.update(self._task, description=text, completed=share)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
