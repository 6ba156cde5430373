# SPDX-License-Identifier: Apache-2.0
"""The document that tells our plugin in vLLM where the weights lie. Its other end: `vllm_plugin/…/manifest.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.engine.base import RegionFile
from serverlessllm.errors import EngineError
from serverlessllm.wire.worker import ModelLayout

VERSION: Final = 1


def write_manifest(path: Path, layout: ModelLayout, region: RegionFile | None) -> None:
    """Write it aside and rename it: who reads it reads a whole one.

    The region is named through this process's descriptor, so that the server needs no path to the arena and gets
    what the worker was given, read-only. Raises EngineError when no region was attached.
    """
    if region is None:
        raise EngineError("vLLM needs weights, and the attach brought none")
    document = {
        "version": VERSION,
        "revision": "",
        "path": f"/proc/{os.getpid()}/fd/{region.descriptor}",
        "extents": region.extents,
        "tensors": layout.tensors,
        "aliases": layout.aliases,
    }
    aside = path.with_suffix(".tmp")
    aside.write_bytes(msgspec.json.encode(document))
    aside.rename(path)
