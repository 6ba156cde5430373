# SPDX-License-Identifier: Apache-2.0
"""How many answers a node is writing, and when there are none. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class OpenAnswers:
    """`quiet` is set while no answer is being computed or written, its last byte included."""

    def __init__(self) -> None:
        self.num_open = 0
        self.quiet = asyncio.Event()
        self.quiet.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around the whole of one answer."""
        self.num_open += 1
        self.quiet.clear()
        try:
            yield
        finally:
            self.num_open -= 1
            if not self.num_open:
                self.quiet.set()
