# SPDX-License-Identifier: Apache-2.0
"""Typed reading of `config.json`: every error names its key. Knows no family of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serverlessllm.errors import UnsupportedCheckpointError

Architecture = Mapping[str, object]

_MAX_DIMENSION: Final = 1 << 24


def unsupported(key: str, problem: str) -> UnsupportedCheckpointError:
    """The error for a key that is missing, malformed or asks for what is not implemented."""
    return UnsupportedCheckpointError(f"config.json: {key}: {problem}", param=key, source="engine")


def number(source: Architecture, key: str, default: float | None = None) -> float:
    """A positive number. Raises: UnsupportedCheckpointError naming the key."""
    value = source.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise unsupported(key, f"{value!r} is not a positive number")
    return float(value)


def integer(source: Architecture, key: str, default: int | None = None) -> int:
    """A positive whole number. Raises: UnsupportedCheckpointError naming the key."""
    value = source.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_DIMENSION:
        raise unsupported(key, f"{value!r} is not a whole number between 1 and {_MAX_DIMENSION}")
    return value


def boolean(source: Architecture, key: str, *, default: bool) -> bool:
    """True or false. Raises: UnsupportedCheckpointError naming the key."""
    value = source.get(key, default)
    if not isinstance(value, bool):
        raise unsupported(key, f"{value!r} is not true or false")
    return value
