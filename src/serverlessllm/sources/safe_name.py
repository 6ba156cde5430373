# SPDX-License-Identifier: Apache-2.0
"""Names that strangers give to files: which of them may be joined to a directory of ours. Pure."""

from __future__ import annotations

from typing import Final

from serverlessllm.errors import CheckpointFormatError

MAX_NAME_BYTES: Final = 1024
MAX_SEGMENT_BYTES: Final = 200
"""Below the file systems' 255, with room for our own suffixes."""


def safe_name(name: str, *, where: str) -> str:
    """`name` if it is relative, plain and below the directory that it is joined to.

    Raises: CheckpointFormatError naming `where` it stood: absolute, `..`, empty segments, backslashes, control
    characters, too long.
    """
    if not name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise _refused(name, where, "empty or too long")
    if any(ord(char) < 0x20 or ord(char) == 0x7F or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise _refused(name, where, "it has control characters or is no text")
    if "\\" in name:
        raise _refused(name, where, "it has a backslash")
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            raise _refused(name, where, "it is absolute or leaves its directory")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise _refused(name, where, f"a part is longer than {MAX_SEGMENT_BYTES} bytes")
    return name


def _refused(name: str, where: str, reason: str) -> CheckpointFormatError:
    return CheckpointFormatError(f"{where}: refusing the file name {name[:80]!r}: {reason}", param=name[:80])
