# SPDX-License-Identifier: Apache-2.0
"""Quantities as people read them: bytes, rates, durations. Knows no terminal."""

from __future__ import annotations

import math


def bytes_text(nbytes: float) -> str:
    """`283115520` → `270.0 MiB`."""
    if abs(nbytes) < 1024:
        return f"{nbytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        nbytes /= 1024
        if abs(nbytes) < 1024:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1024:.1f} TiB"


def rate_text(bytes_per_s: float) -> str:
    """`1930000000` → `1.93 GB/s`: decimal, as media and networks are specified."""
    if bytes_per_s >= 1e9:
        return f"{bytes_per_s / 1e9:.2f} GB/s"
    return f"{bytes_per_s / 1e6:.0f} MB/s"


def duration_text(seconds: float) -> str:
    """`0.0423` → `42 ms`, `4.25` → `4.2 s`, `312` → `5 min 12 s`, `7500` → `2 h 5 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 0.9995:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def age_text(seconds: float) -> str:
    """How long ago: `now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`."""
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds // 1:.0f} s ago"


def count_text(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_text(nbytes: int) -> str:
    """A size exactly, in the form that settings take: `16777216` → `16MiB`, `1000` → `1000`."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes and nbytes % factor == 0:
            return f"{nbytes // factor}{unit}"
    return str(nbytes)


def setting_text(value: object, key: str) -> str:
    """A setting's value as YAML and the flags take it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and key.endswith("_bytes"):
        return size_text(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(str(part) for part in value)}]"
    return str(value) or '""'
