# SPDX-License-Identifier: Apache-2.0
"""What a forked process does to itself: tie its life to its parent, take a name, drop what it inherited.

Knows no engine and no messages. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

EXIT_CRASH: Final = 70
"""Exit code after an unexpected exception (EX_SOFTWARE); the traceback is in the process's log."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_MAX_NAME_BYTES: Final = 15
_libc: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies; end at once if it died before we asked.

    The signal follows the parent's *thread* that forked: use it only below a single-threaded parent.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(EXIT_CRASH)


def set_process_name(name: str) -> None:
    """What `ps -o comm` and `top` show; the kernel keeps the first 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:_MAX_NAME_BYTES], 0, 0, 0)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close every descriptor of this process but the three standard ones and `keep`."""
    kept = {0, 1, 2, *keep}
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - one string list, no Path per descriptor
        if int(entry) not in kept:
            # The listing's own descriptor is in the list and closed by now: closerange ignores that.
            os.closerange(int(entry), int(entry) + 1)


def redirect_output(log_path: Path) -> None:
    """Append standard output and error to `log_path`, and read nothing."""
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((null_fd, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    os.close(log_fd)
    os.close(null_fd)


def describe_exit(exit_code: int) -> str:
    """A sentence part for people: how a process ended. `exit_code` < 0 is a signal's number."""
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
