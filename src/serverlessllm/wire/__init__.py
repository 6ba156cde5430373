# SPDX-License-Identifier: Apache-2.0
"""Every message that crosses a process border, one file per border, versioned by `WIRE_VERSION`.

Structs here carry data and its validation; they do no I/O and know no process.
"""

from typing import Final

WIRE_VERSION: Final = 1
"""Raised when a message changes incompatibly; an agent reports its own in `/status` and `/events`."""


def is_compatible(version: int) -> bool:
    """Whether we understand a process of that version: neighbours do, so that a cluster is upgraded one by one."""
    return abs(version - WIRE_VERSION) <= 1


def refusal(version: int) -> str:
    """What to say to, or of, a process of a version that is not compatible."""
    return f"it speaks wire version {version}, we {WIRE_VERSION}; upgrade the older one"
