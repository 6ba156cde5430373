# SPDX-License-Identifier: Apache-2.0
"""An artifact read by its format's page alone, with nothing of ours: what tests compare with the source."""

from __future__ import annotations

import json
from pathlib import Path


def read_tensors(artifact: Path) -> dict[str, bytes]:
    """Name → bytes, aliases included."""
    index = json.loads((artifact / "model.idx").read_bytes())
    raw = {shard["id"]: shard["encodings"][0] for shard in index["shards"]}
    found: dict[str, bytes] = {}
    for tensor in index["tensors"]:
        shard = raw[tensor["shard"]]
        with (artifact / shard["file"]).open("rb") as file:
            file.seek(shard["offset"] + tensor["offset"])
            found[tensor["name"]] = file.read(tensor["nbytes"])
    return found | {alias: found[name] for alias, name in index["aliases"].items()}
