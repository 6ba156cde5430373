# SPDX-License-Identifier: Apache-2.0
"""A hub repository as the objects of a `RangedServer`: what the hub's API answers, and the files themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf")


def hub_objects(repository: str, files: Mapping[str, bytes], *, commit: str = COMMIT) -> dict[str, bytes]:
    """Path → answer, for `main` and the commit."""
    info = json.dumps({"id": repository, "sha": commit, "siblings": []}).encode()
    api = f"/api/models/{repository}"
    objects = {api: info, f"{api}/revision/main": info, f"{api}/revision/{commit}": info}
    objects[f"{api}/tree/{commit}"] = json.dumps([_entry(*item) for item in files.items()]).encode()
    return objects | {f"/{repository}/resolve/{commit}/{name}": data for name, data in files.items()}


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if name.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def directory_files(directory: Path) -> dict[str, bytes]:
    """Name → bytes of a checkpoint on disk."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
