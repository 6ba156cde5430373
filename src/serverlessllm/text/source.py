# SPDX-License-Identifier: Apache-2.0
"""What the text part needs of an artifact, and how it reads the JSON files that came with the model.

Knows no format and no path: any object with these three members will do.
"""

from __future__ import annotations

import json
from typing import Protocol

from serverlessllm.errors import CheckpointFormatError, NotFoundError


class TextSource(Protocol):
    """The files of one immutable revision; `checkpoint.reader.Artifact` is one."""

    @property
    def revision(self) -> str:
        """Names the content: two sources of one revision hold the same bytes."""

    def file(self, name: str) -> bytes:
        """The bytes of a small file. Raises KeyError or NotFoundError when the artifact has none."""

    def config(self) -> dict[str, object]:
        """The model's `config.json`."""


def read_optional(source: TextSource, name: str) -> bytes | None:
    """The file's bytes, or None when the artifact does not carry it."""
    try:
        return source.file(name)
    except (KeyError, NotFoundError):
        return None


def read_json(source: TextSource, name: str) -> dict[str, object]:
    """The file as a JSON object; `{}` when it is absent.

    Raises: CheckpointFormatError naming the file when it is not a JSON object.
    """
    data = read_optional(source, name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(
            f"{name}: not valid JSON ({error}); convert the model again", param=name
        ) from error
    if not isinstance(value, dict):
        raise CheckpointFormatError(f"{name}: expected a JSON object; convert the model again", param=name)
    return value
