# SPDX-License-Identifier: Apache-2.0
"""The numbers and names that the artifact format fixes, and the bounds a reader enforces.

Knows no structure: `records.py` has the records, `rules.py` what holds between them.
`docs/checkpoint-format.md` is the same in prose; a change here is a change of the format.
"""

from __future__ import annotations

import re
from typing import Final

FORMAT: Final = "sllm-checkpoint"
VERSION: Final = 1
SUPPORTED_FEATURES: Final[frozenset[str]] = frozenset()
"""Values of `required_features` that this reader understands."""

INDEX_NAME: Final = "model.idx"
CONFIG_NAME: Final = "config.json"

SHARD_ALIGN_BYTES: Final = 4096
"""Shards start here, so that each can be read with O_DIRECT."""
TENSOR_ALIGN_BYTES: Final = 64
"""Groups and single tensors start here, counted from the shard: one cache line, one AVX-512 register."""
CHUNK_BYTES: Final = 8 << 20
"""Grain of verification and exchange, counted from the shard's start; the last chunk may be shorter."""

DTYPE_BYTES: Final = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "f8_e4m3": 1,
    "f8_e5m2": 1,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "u8": 1,
    "bool": 1,
}
SHARD_KINDS: Final = ("embed", "block", "final")
"""In execution order."""
GROUP_NUM_MEMBERS: Final = {"qkv": 3, "qkv_bias": 3, "gate_up": 2, "gate_up_bias": 2}
CODECS: Final = ("raw",)

MAX_INDEX_BYTES: Final = 64 << 20
MAX_WEIGHTS_BYTES: Final = 1 << 46
"""64 TiB: above every model, below every overflow."""
MAX_FILE_BYTES: Final = 256 << 20
"""Of one tokenizer or configuration file."""
MAX_NUM_FILES: Final = 1024
MAX_NUM_SHARDS: Final = 1 << 14
MAX_NUM_TENSORS: Final = 1 << 18
MAX_NUM_FEATURES: Final = 64
MAX_NAME_BYTES: Final = 512
MAX_FILE_NAME_BYTES: Final = 128
MAX_RANK: Final = 8

FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A plain name: no separator, no leading dot, so it can never leave its directory."""
HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def align_up(offset: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is at least `offset`."""
    return -(-offset // alignment) * alignment


def num_chunks(nbytes: int) -> int:
    """How many chunks a shard of `nbytes` has."""
    return -(-nbytes // CHUNK_BYTES)
