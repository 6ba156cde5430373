# SPDX-License-Identifier: Apache-2.0
"""The records of `model.idx`. Each parses itself from JSON, checking types and bounds of its own fields.

What must hold between records is in `rules.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from serverlessllm.checkpoint import spec
from serverlessllm.checkpoint.strict_json import Fields, check_integer, fail
from serverlessllm.errors import UnsupportedCheckpointError


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: row-major, little-endian, `offset` counted from its shard's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    nbytes: int
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> TensorEntry:
        """Check one item of `tensors`."""
        name = fields.text("name", max_bytes=spec.MAX_NAME_BYTES)
        dtype = fields.text("dtype", max_bytes=16)
        if dtype not in spec.DTYPE_BYTES:
            fail(fields.path("dtype"), f"unknown dtype {dtype!r}; known: {', '.join(spec.DTYPE_BYTES)}")
        shape = tuple(
            check_integer(size, path, low=1, high=spec.MAX_WEIGHTS_BYTES)
            for path, size in fields.items("shape", max_items=spec.MAX_RANK)
        )
        nbytes = fields.integer("nbytes", low=1, high=spec.MAX_WEIGHTS_BYTES)
        expected = math.prod(shape) * spec.DTYPE_BYTES[dtype]
        if nbytes != expected:
            fail(fields.path("nbytes"), f"{nbytes}, but {dtype} of shape {list(shape)} has {expected} bytes")
        shard = fields.text("shard", max_bytes=spec.MAX_NAME_BYTES)
        offset = fields.integer("offset", low=0, high=spec.MAX_WEIGHTS_BYTES)
        return cls(name, dtype, shape, shard, offset, nbytes, fields.rest())

    def as_json(self) -> dict[str, object]:
        """The record as it is stored."""
        return {
            **self.extra,
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "shard": self.shard,
            "offset": self.offset,
            "nbytes": self.nbytes,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors packed back to back, so that the fused matrix is one view. `kind`: qkv, gate_up, …"""

    kind: str
    members: tuple[str, ...]
    shard: str
    offset: int
    nbytes: int
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> Group:
        """Check one item of `groups`."""
        kind = fields.text("kind", max_bytes=64)
        if kind not in spec.GROUP_NUM_MEMBERS:
            known = ", ".join(spec.GROUP_NUM_MEMBERS)
            fail(fields.path("kind"), f"unknown group kind {kind!r}; known: {known}")
        num = spec.GROUP_NUM_MEMBERS[kind]
        members = fields.texts("members", max_items=num, max_bytes=spec.MAX_NAME_BYTES)
        if len(members) != num:
            fail(fields.path("members"), f"a group of kind {kind} has {num} members, not {len(members)}")
        shard = fields.text("shard", max_bytes=spec.MAX_NAME_BYTES)
        offset = fields.integer("offset", low=0, high=spec.MAX_WEIGHTS_BYTES)
        nbytes = fields.integer("nbytes", low=1, high=spec.MAX_WEIGHTS_BYTES)
        return cls(kind, members, shard, offset, nbytes, fields.rest())

    def as_json(self) -> dict[str, object]:
        """The record as it is stored."""
        return {
            **self.extra,
            "kind": self.kind,
            "members": list(self.members),
            "shard": self.shard,
            "offset": self.offset,
            "nbytes": self.nbytes,
        }


@dataclass(frozen=True, slots=True)
class Encoding:
    """A shard's bytes in one form: a range of one `.bin` file and the BLAKE3 of each of its chunks."""

    codec: str
    file: str
    offset: int
    nbytes: int
    chunk_digests: tuple[str, ...]
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> Encoding:
        """Check one item of `encodings`. Raises UnsupportedCheckpointError for an unknown codec."""
        codec = fields.text("codec", max_bytes=64)
        if codec not in spec.CODECS:
            path = fields.path("codec")
            raise UnsupportedCheckpointError(f"{path}: unknown codec {codec!r}", param=path)
        file = fields.text("file", max_bytes=spec.MAX_FILE_NAME_BYTES, pattern=spec.FILE_NAME)
        offset = fields.integer("offset", low=0, high=spec.MAX_WEIGHTS_BYTES)
        nbytes = fields.integer("nbytes", low=1, high=spec.MAX_WEIGHTS_BYTES)
        num = spec.num_chunks(nbytes)
        path = fields.path("chunk_digests")
        digests = fields.texts(
            "chunk_digests", max_items=spec.MAX_INDEX_BYTES // 64, max_bytes=64, pattern=spec.HEX_DIGEST
        )
        if len(digests) != num:
            fail(path, f"{len(digests)} digests for {num} chunks of {spec.CHUNK_BYTES} bytes")
        return cls(codec, file, offset, nbytes, digests, fields.rest())

    def as_json(self) -> dict[str, object]:
        """The record as it is stored."""
        return {
            **self.extra,
            "codec": self.codec,
            "file": self.file,
            "offset": self.offset,
            "nbytes": self.nbytes,
            "chunk_digests": list(self.chunk_digests),
        }


@dataclass(frozen=True, slots=True)
class Shard:
    """What loads alone: the embeddings, one transformer block, or the head."""

    id: str
    kind: str
    encodings: tuple[Encoding, ...]
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> Shard:
        """Check one item of `shards`."""
        shard_id = fields.text("id", max_bytes=spec.MAX_NAME_BYTES)
        kind = fields.text("kind", max_bytes=64)
        if kind not in spec.SHARD_KINDS:
            fail(fields.path("kind"), f"unknown shard kind {kind!r}; known: {', '.join(spec.SHARD_KINDS)}")
        items = fields.items("encodings", max_items=len(spec.CODECS))
        if not items:
            fail(fields.path("encodings"), "is empty; a shard needs its raw encoding")
        encodings = tuple(Encoding.parse(Fields(item, path)) for path, item in items)
        return cls(shard_id, kind, encodings, fields.rest())

    @property
    def raw(self) -> Encoding:
        """The uncompressed form; version 1 has it in every shard, as the first encoding."""
        return self.encodings[0]

    def as_json(self) -> dict[str, object]:
        """The record as it is stored."""
        encodings = [encoding.as_json() for encoding in self.encodings]
        return {**self.extra, "id": self.id, "kind": self.kind, "encodings": encodings}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A tokenizer or configuration file beside the weights."""

    name: str
    nbytes: int
    blake3: str
    extra: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Fields) -> FileEntry:
        """Check one item of `files`."""
        name = fields.text("name", max_bytes=spec.MAX_FILE_NAME_BYTES, pattern=spec.FILE_NAME)
        nbytes = fields.integer("nbytes", low=0, high=spec.MAX_FILE_BYTES)
        digest = fields.text("blake3", max_bytes=64, pattern=spec.HEX_DIGEST)
        return cls(name, nbytes, digest, fields.rest())

    def as_json(self) -> dict[str, object]:
        """The record as it is stored."""
        return {**self.extra, "name": self.name, "nbytes": self.nbytes, "blake3": self.blake3}


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A `.bin` file and where it lies in the region (all `.bin` files mapped one after another)."""

    name: str
    nbytes: int
    region_offset: int
