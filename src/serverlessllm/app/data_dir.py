# SPDX-License-Identifier: Apache-2.0
"""The data directory of a node: what lies where, who owns it, and the secret that its processes share."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from serverlessllm.config import environment
from serverlessllm.errors import ConfigError, ConflictError


class DataDir:
    """`artifacts/ logs/ run/ arena/ metadata.sqlite secret profile.json`, owned by one process at a time.

    Opening takes a lock that ends with the process, however it ends. Raises ConflictError when another process
    holds it, ConfigError when the directory cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            for folder in (path, self.artifacts, self.logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot use data directory {path}: {error}; choose another with --data-dir", param="data_dir"
            ) from error
        self._take_lock()

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock_fd)
            raise ConflictError(
                f"data directory {self.path} is in use by process {holder}; stop it, or choose another directory"
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, str(os.getpid()).encode(), 0)

    def secret(self) -> str:
        """The cluster secret."""
        return cluster_secret(self.path)

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._lock_fd)


def cluster_secret(data_path: Path) -> str:
    """The secret that a cluster's processes share: SLLM_SECRET, else the data directory's own.

    The latter is made at first use, readable by its owner alone.
    """
    given = environment("SLLM_SECRET")
    if given is not None:
        return given
    path = data_path / "secret"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        part = data_path / f"secret.{os.getpid()}"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(32))
        # Of two processes that start together the first one's secret stays: link refuses to replace.
        with suppress(FileExistsError):
            path.hardlink_to(part)
        part.unlink()
        return path.read_text().strip()
