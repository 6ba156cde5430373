# SPDX-License-Identifier: Apache-2.0
"""Where the weights of one revision lie: the JSON document that the agent's worker writes for the server.

    {"version": 1, "revision": "…", "path": "/proc/71/fd/9",
     "extents": [[file offset, nbytes], …],
     "tensors": [[name, dtype, [shape…], offset, nbytes], …],
     "aliases": {"tied name": "name"}}

Extents back to back are the region in which tensors count their offsets. Knows no torch; opens no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VERSION: Final = 1


class ManifestError(ValueError):
    """The document is missing a field, or of another version than this plugin reads."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: `nbytes` at `offset` of the region; `dtype` as ServerlessLLM names it, `shape` row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a loader needs. `path` may be a link to another process's descriptor."""

    revision: str
    path: str
    extents: tuple[tuple[int, int], ...]
    tensors: tuple[TensorPlace, ...]
    aliases: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises: OSError when there is none, ManifestError when it is not one of ours."""
        try:
            document = json.loads(path.read_bytes())
            if document["version"] != VERSION:
                raise ManifestError(
                    f"{path}: version {document['version']}, this plugin reads {VERSION}; run `make engines`"
                )
            return cls(
                revision=document["revision"],
                path=document["path"],
                extents=tuple((int(offset), int(nbytes)) for offset, nbytes in document["extents"]),
                tensors=tuple(
                    TensorPlace(name, dtype, tuple(shape), int(offset), int(nbytes))
                    for name, dtype, shape, offset, nbytes in document["tensors"]
                ),
                aliases=dict(document["aliases"]),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ManifestError(f"{path}: not a manifest of weights: {error!r}") from error
