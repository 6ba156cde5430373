# SPDX-License-Identifier: Apache-2.0
"""What lies on the disks of nodes, and what of it may go: client ⇄ orchestrator (`/admin/disk`) ⇄ agents (`/disk`).

Sizes are bytes on the disk, `last_used_s` is Unix time. Knows no directory.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.openai import field_error

CopyKind = Literal["artifact", "fetching", "source", "quarantined", "leftover"]
"""artifact: whole · fetching: an artifact half-fetched or being repaired; the next load goes on · source: files
that a conversion is made of, half-fetched or kept for a while · quarantined: bytes that were wrong, put aside ·
leftover: what a writer that was killed left."""


class DiskCopy(msgspec.Struct, frozen=True, kw_only=True):
    """One thing on a node's disk. `path` is relative to the data directory.

    `revision` is empty where it belongs to none. `models` are registered with it; None: who may be is not known here.
    `origins` can bring it back. `is_in_use`: a load, a fetch, a conversion or a replica needs it now. `is_verified`:
    every byte was checked since the server began, and the files have not changed; None: not known.
    """

    path: str
    kind: CopyKind
    revision: str
    nbytes: int
    last_used_s: float
    origins: list[str] = []
    models: list[str] | None = None
    is_in_use: bool = False
    is_verified: bool | None = None


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node's disk: `GET /disk` of its agent. `directory` is the data directory.

    `held_bytes` is the sum of all copies; `budget_bytes` 0: all of the file system but a reserve; `room_bytes` may be
    written now (below 0: the budget was lowered); `free_bytes` and `total_bytes` are the file system's.
    """

    agent_id: str
    directory: str
    budget_bytes: int
    held_bytes: int
    room_bytes: int
    free_bytes: int
    total_bytes: int
    copies: list[DiskCopy]


class DiskView(msgspec.Struct, frozen=True):
    """`GET /admin/disk`: of every living agent."""

    nodes: list[DiskStatus]


class CleanDisk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /admin/disk/clean`: remove quarantined copies and left-overs; what is in use stays in any case.

    `fetched`: also half-fetched artifacts and sources. `artifacts`: also artifacts that no model is registered with.
    `to_bytes`: then, until no more than this is held, half-fetched files, artifacts without a model, and last those
    that an origin can bring back, the longest unused first. `dry_run` removes nothing and says what would go.
    """

    fetched: bool = False
    artifacts: bool = False
    to_bytes: int | None = None
    dry_run: bool = False


class CleanNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /disk/clean` of an agent: `wish`, and revision → models registered with it, which agents do not know."""

    wish: CleanDisk
    models: dict[str, list[str]]


class DiskCleaned(msgspec.Struct, frozen=True, kw_only=True):
    """What went, or would go, and the node's disk afterwards. `is_reached` False: more than `to_bytes` must stay."""

    removed: list[DiskCopy]
    disk: DiskStatus
    is_reached: bool


class CleanedView(msgspec.Struct, frozen=True):
    """Answer to `POST /admin/disk/clean`."""

    nodes: list[DiskCleaned]


def parse_clean_disk(body: bytes) -> CleanDisk:
    """Decode and check; an empty body takes the defaults. Raises InvalidRequestError naming the field."""
    try:
        request = msgspec.json.decode(body or b"{}", type=CleanDisk)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    if request.to_bytes is not None and request.to_bytes < 0:
        raise InvalidRequestError("to_bytes: must not be negative", param="to_bytes")
    return request
