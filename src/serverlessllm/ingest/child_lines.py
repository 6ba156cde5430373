# SPDX-License-Identifier: Apache-2.0
"""The child's side of the pipe: messages as JSON lines on stdout, failures as the last of them, signals as an end.

A parent that dies closes our stdout; the next line fails, and what is unfinished is removed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import msgspec

from serverlessllm.errors import SllmError
from serverlessllm.wire.ingest import Failure, FromChild


def print_line(message: FromChild) -> None:
    """One message. Raises BrokenPipeError when nobody listens any more."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def run_printing(work: Callable[[], FromChild]) -> int:
    """Do the work, print its last message; the exit code: 0 done, 1 failed, 130 or 143 interrupted, 141 unheard."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        print_line(work())
    except SllmError as error:
        print_line(Failure(error.as_openai()["error"]))
        return 1
    except BrokenPipeError:
        return 141
    except (OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        print_line(Failure(SllmError(reason, source="ingest").as_openai()["error"]))
        return 1
    return 0


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that the writer removes what is unfinished."""
    raise SystemExit(128 + number)
