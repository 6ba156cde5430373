# SPDX-License-Identifier: Apache-2.0
"""One owner per arena: an flock on a file of the data directory, which dies with its process.

Knows nothing of what it guards.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from serverlessllm.errors import ConflictError


class ArenaLock:
    """The exclusive right to the arena of `directory`. The lock file names the owner's process."""

    def __init__(self, directory: Path) -> None:
        """Raises: ConflictError naming the process that holds it."""
        self._fd = os.open(directory / "arena.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ConflictError(
                f"the arena of {directory} is in use by process {owner}; stop it, or use another data_dir",
                param="data_dir",
                source="agent",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next owner in. Idempotent. The file stays: removing it would race with an opener."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
