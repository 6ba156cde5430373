# SPDX-License-Identifier: Apache-2.0
"""A server below a worker ends with it, however the worker ends: every process of it asks the kernel. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

VARIABLE: Final = "SLLM_FOLLOW_PARENT"
"""Set in the environment of a server that must not outlive its starter; else nothing here happens."""
_PR_SET_PDEATHSIG: Final = 1


def follow_parent(expected_pid: int | None = None) -> None:
    """Ask for SIGKILL when the parent dies; end at once if it is not `expected_pid`, or is gone. Idempotent.

    The signal follows the parent's thread that started us: a server is started by a worker's main thread, and vLLM
    starts its engine's process from its own.
    """
    if VARIABLE not in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() not in (expected_pid or os.getppid(),) or os.getppid() == 1:
        sys.exit("the process that started this server is gone")
