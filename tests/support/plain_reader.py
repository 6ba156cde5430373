# SPDX-License-Identifier: Apache-2.0
"""Artifacts, regions and sources read by their formats' pages alone, with nothing of ours: what tests compare.

docs/checkpoint-format.md says where a tensor lies in its artifact, docs/arena.md where a region lies in memory.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any, Final

PAGE_BYTES: Final = 4096


def read_tensors(artifact: Path) -> dict[str, bytes]:
    """Name → bytes, aliases included."""
    index = _index(artifact)
    raw = {shard["id"]: shard["encodings"][0] for shard in index["shards"]}
    found: dict[str, bytes] = {}
    for tensor in index["tensors"]:
        shard = raw[tensor["shard"]]
        with (artifact / shard["file"]).open("rb") as file:
            file.seek(shard["offset"] + tensor["offset"])
            found[tensor["name"]] = file.read(tensor["nbytes"])
    return found | {alias: found[name] for alias, name in index["aliases"].items()}


def tensor_places(artifact: Path) -> dict[str, tuple[int, int]]:
    """Name → (offset in the region, bytes); where there is one weights file, that is its offset in the file too."""
    index = _index(artifact)
    starts: dict[str, int] = {}
    shards: dict[str, int] = {}
    at = 0
    for shard in index["shards"]:
        raw = shard["encodings"][0]
        if raw["file"] not in starts:
            starts[raw["file"]] = at = -(-at // PAGE_BYTES) * PAGE_BYTES
        shards[shard["id"]] = starts[raw["file"]] + raw["offset"]
        at = shards[shard["id"]] + raw["nbytes"]
    return {
        tensor["name"]: (shards[tensor["shard"]] + tensor["offset"], tensor["nbytes"])
        for tensor in index["tensors"]
    }


def read_region(arena: Path, table: Path, artifact: Path) -> dict[str, bytes] | None:
    """Name → bytes in memory of the artifact's revision; None when the arena's table does not list it."""
    rows = json.loads(table.read_bytes().split(b"\n")[0])["regions"]
    row = next((row for row in rows if row["revision"] == artifact.name), None)
    if row is None:
        return None
    with arena.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        region = b"".join(memory[offset : offset + nbytes] for offset, nbytes in row["extents"])
    places = tensor_places(artifact)
    return {name: region[start : start + nbytes] for name, (start, nbytes) in places.items()}


def read_safetensors(data: bytes) -> dict[str, bytes]:
    """Name → bytes of a safetensors file, by its format's description."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: data[start + tensor["data_offsets"][0] : start + tensor["data_offsets"][1]]
        for name, tensor in header.items()
    }


def _index(artifact: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((artifact / "model.idx").read_bytes())
    return index
