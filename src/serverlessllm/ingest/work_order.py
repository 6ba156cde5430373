# SPDX-License-Identifier: Apache-2.0
"""What a job's child is told, as JSON on its stdin: a command line would show signed URLs to everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.config import SourcesConfig
from serverlessllm.wire.ingest import TargetDtype


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source` → `artifacts/<revision>`, by way of `fetches` when it lies elsewhere; then to `publish`, if set.

    `republish`: what is there already is not trusted.

    `parent_pid`: the process with which the child dies.
    """

    source: str
    artifacts: Path
    fetches: Path
    dtype: TargetDtype | None
    publish: str
    republish: bool
    allow_private_urls: bool
    sources: SourcesConfig
    parent_pid: int

    def to_bytes(self) -> bytes:
        """For the child's stdin."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def parse(cls, data: bytes) -> WorkOrder:
        """In the child. Raises msgspec.MsgspecError for anything else."""
        return _decoder.decode(data)


def _to_path(kind: type, value: object) -> object:
    return kind(value)


_decoder: Final = msgspec.json.Decoder(WorkOrder, dec_hook=_to_path)
