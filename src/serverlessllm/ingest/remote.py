# SPDX-License-Identifier: Apache-2.0
"""Questions about a source elsewhere that are asked before its first byte is fetched. Blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from serverlessllm.errors import CapacityError
from serverlessllm.ingest.fetch_area import free_bytes, make_room
from serverlessllm.sources.access import Access
from serverlessllm.sources.hub import HubRepository
from serverlessllm.sources.location import Location, list_files

MIN_ARTIFACT_RATIO: Final = 0.5
"""Of the fetched bytes that the artifact takes at least (float32 rounded to bfloat16)."""


def pinned(location: Location, access: Access) -> Location:
    """The same place with its moving part fixed: a branch of the hub becomes the commit that it stands for now."""
    if location.kind != "hub":
        return location
    repository = HubRepository(location.root, location.revision, access)
    return dataclasses.replace(location, revision=repository.commit)


def check_room(location: Location, area: Path, access: Access) -> int:
    """Make room for what is not in `area` yet, and for the smallest artifact that can come of all of it.

    What other, unfinished fetches left goes first. Returns how many bytes the source may have, unpacked or not,
    sizes that it does not tell included. Raises: CapacityError saying what is missing.
    """
    total_bytes = sum(file.size_bytes or 0 for file in list_files(location, access))
    here_bytes = sum(path.stat().st_blocks * 512 for path in area.rglob("*") if path.is_file())
    need_bytes = max(0, total_bytes - here_bytes) + int(total_bytes * MIN_ARTIFACT_RATIO)
    free = make_room(area.parent, need_bytes)
    if free < need_bytes:
        raise CapacityError(
            f"no room for {location.name} on the disk of {area.parent}: it takes {need_bytes} bytes, {free} are "
            "free; free some, e.g. with `sllm disk`",
            source="ingest",
        )
    return here_bytes + free_bytes(area)
