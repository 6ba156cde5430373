# SPDX-License-Identifier: Apache-2.0
"""What the exit status of `sllm` means; `docs/cli.md` and every `--help` carry the same table."""

from __future__ import annotations

from typing import Final

from serverlessllm.errors import ConfigError, SllmError, UnreachableError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "it worked",
    FAILED: "it failed, the message says why",
    USAGE: "the command line or the configuration is wrong",
    UNREACHABLE: "no server answers at --url",
    INTERRUPTED: "interrupted with Ctrl-C",
}

EPILOG: Final = "Exit status: " + " · ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."


def exit_code(error: SllmError) -> int:
    """The status with which a command ends that failed with `error`."""
    if isinstance(error, UnreachableError):
        return UNREACHABLE
    return USAGE if isinstance(error, ConfigError) else FAILED
