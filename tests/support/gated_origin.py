# SPDX-License-Identifier: Apache-2.0
"""An origin of one artifact that sends its weights only as far as the test lets it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serverlessllm.checkpoint.reader import Artifact
from support.ranged_server import FaultKind, RangedServer, RangeRequest

WEIGHTS = "/model.bin"


class GatedOrigin:
    """Requests for the weights from `open_bytes` on wait for the gate; those from `bad_bytes` on get wrong bytes."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.open_bytes = 0
        self.bad_bytes: int | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        objects = {f"/{artifact.revision}/{p.name}": p.read_bytes() for p in artifact.directory.iterdir()}
        self.server = RangedServer(objects, fault=self._answer)

    @property
    def url(self) -> str:
        """Of the artifact's directory."""
        return self.server.url(f"/{self.artifact.revision}")

    def let(self, nbytes: int | None = None) -> None:
        """Send what lies below this; None: everything."""
        with self._changed:
            self.open_bytes = 1 << 62 if nbytes is None else nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _answer(self, request: RangeRequest) -> FaultKind | None:
        if not request.path.endswith(WEIGHTS):
            return None
        with self._changed:
            self._changed.wait_for(lambda: request.start < self.open_bytes or self._is_closed)
        is_bad = self.bad_bytes is not None and request.start >= self.bad_bytes
        return "corrupt" if is_bad else None


@contextmanager
def gated_origin(artifact: Artifact) -> Iterator[GatedOrigin]:
    """A running one; its gate is shut."""
    origin = GatedOrigin(artifact)
    with origin.server:
        try:
            yield origin
        finally:
            origin.close()


def elsewhere(data_dir: Path, artifact: Artifact) -> Path:
    """Where the artifact would lie on a node that lacks it."""
    return data_dir / "artifacts" / artifact.revision
