# SPDX-License-Identifier: Apache-2.0
"""`model.idx`: which tensors lie where in which file, and what their bytes hash to.

Parsing checks types and bounds of every field, then `rules.check` what must hold between them. Knows no file
system: `reader.py` opens directories, `writer.py` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from blake3 import blake3

from serverlessllm.checkpoint import rules, spec
from serverlessllm.checkpoint.records import Encoding, FileEntry, Group, Shard, TensorEntry, WeightFile
from serverlessllm.checkpoint.strict_json import Fields, check_text, dumps_canonical, fail, loads_strict
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError

__all__ = ["CheckpointIndex", "Encoding", "FileEntry", "Group", "Shard", "TensorEntry", "WeightFile"]

_Record = TypeVar("_Record", FileEntry, Shard, TensorEntry, Group)


@dataclass(frozen=True)
class CheckpointIndex:
    """One immutable index. `extra` holds unknown optional fields, so that nothing is lost on rewriting.

    `source_digest`: content of the checkpoint it was made from. `architecture_digest`: config and tensor
    shapes, equal for all revisions that one engine build can run. Both are 64 hex digits of BLAKE3.
    """

    source_digest: str
    architecture_digest: str
    files: tuple[FileEntry, ...]
    shards: tuple[Shard, ...]
    tensors: tuple[TensorEntry, ...]
    groups: tuple[Group, ...]
    aliases: Mapping[str, str]
    required_features: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules.check(self)

    @classmethod
    def parse(cls, data: bytes) -> CheckpointIndex:
        """Read untrusted bytes.

        Raises: CheckpointFormatError naming the field for any broken rule; UnsupportedCheckpointError for an
        unknown version, required feature or codec.
        """
        if len(data) > spec.MAX_INDEX_BYTES:
            fail(spec.INDEX_NAME, f"{len(data)} bytes exceed the bound of {spec.MAX_INDEX_BYTES}")
        fields = Fields(loads_strict(data, what=spec.INDEX_NAME), "")
        features = _header(fields)
        index = cls(
            source_digest=fields.text("source_digest", max_bytes=64, pattern=spec.HEX_DIGEST),
            architecture_digest=fields.text("architecture_digest", max_bytes=64, pattern=spec.HEX_DIGEST),
            files=_records(FileEntry, fields, "files", spec.MAX_NUM_FILES),
            shards=_records(Shard, fields, "shards", spec.MAX_NUM_SHARDS),
            tensors=_records(TensorEntry, fields, "tensors", spec.MAX_NUM_TENSORS),
            groups=_records(Group, fields, "groups", spec.MAX_NUM_TENSORS),
            aliases=_aliases(fields.take("aliases")),
            required_features=features,
            extra=fields.rest(),
        )
        if index.to_bytes() != data:
            fail(spec.INDEX_NAME, "is not canonical JSON (sorted keys, no spaces, shortest forms)")
        return index

    def to_bytes(self) -> bytes:
        """The canonical bytes: what is stored, hashed and compared."""
        return self._canonical

    @cached_property
    def _canonical(self) -> bytes:
        return dumps_canonical(
            {
                **self.extra,
                "format": spec.FORMAT,
                "version": spec.VERSION,
                "required_features": list(self.required_features),
                "source_digest": self.source_digest,
                "architecture_digest": self.architecture_digest,
                "files": [entry.as_json() for entry in self.files],
                "shards": [shard.as_json() for shard in self.shards],
                "tensors": [entry.as_json() for entry in self.tensors],
                "groups": [group.as_json() for group in self.groups],
                "aliases": dict(self.aliases),
            }
        )

    @cached_property
    def revision(self) -> str:
        """First 32 hex digits of BLAKE3 over the canonical bytes."""
        return blake3(self._canonical).hexdigest()[:32]

    @cached_property
    def weight_files(self) -> tuple[WeightFile, ...]:
        """The `.bin` files in order, with their places in the region."""
        ends: dict[str, int] = {}
        for shard in self.shards:
            ends[shard.raw.file] = shard.raw.offset + shard.raw.nbytes
        files: list[WeightFile] = []
        start = 0
        for name, nbytes in ends.items():
            files.append(WeightFile(name, nbytes, start))
            start = spec.align_up(start + nbytes, spec.SHARD_ALIGN_BYTES)
        return tuple(files)

    @property
    def weights_nbytes(self) -> int:
        """Size of the region: the `.bin` files one after another, each start rounded up to 4 KiB."""
        last = self.weight_files[-1]
        return last.region_offset + last.nbytes

    def region_offset(self, shard_id: str) -> int:
        """Where the shard starts in the region. Raises KeyError for an unknown shard."""
        raw = self.shard(shard_id).raw
        return raw.offset + next(f.region_offset for f in self.weight_files if f.name == raw.file)

    def shard(self, shard_id: str) -> Shard:
        """The shard of that id. Raises KeyError."""
        return self._by_shard_id[shard_id]

    def tensor(self, name: str) -> TensorEntry:
        """The tensor of that name, through an alias if it is one. Raises KeyError."""
        return self._by_tensor_name[self.aliases.get(name, name)]

    @cached_property
    def _by_shard_id(self) -> dict[str, Shard]:
        return {shard.id: shard for shard in self.shards}

    @cached_property
    def _by_tensor_name(self) -> dict[str, TensorEntry]:
        return {entry.name: entry for entry in self.tensors}


def _header(fields: Fields) -> tuple[str, ...]:
    """Check magic, version and features before anything else is believed."""
    magic = fields.take("format")
    if magic != spec.FORMAT:
        raise CheckpointFormatError(f"format: not {spec.FORMAT!r} but {str(magic)[:40]!r}", param="format")
    version = fields.integer("version", low=1, high=1 << 31)
    if version != spec.VERSION:
        raise UnsupportedCheckpointError(
            f"version: {version} is newer than this reader's {spec.VERSION}; update serverlessllm",
            param="version",
        )
    features = fields.texts("required_features", max_items=spec.MAX_NUM_FEATURES, max_bytes=64)
    for feature in features:
        if feature not in spec.SUPPORTED_FEATURES:
            raise UnsupportedCheckpointError(
                f"required_features: {feature!r} is unknown to this reader; update serverlessllm",
                param="required_features",
            )
    return features


def _records(cls: type[_Record], fields: Fields, name: str, max_items: int) -> tuple[_Record, ...]:
    return tuple(cls.parse(Fields(item, path)) for path, item in fields.items(name, max_items=max_items))


def _aliases(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        fail("aliases", "expected an object")
    if len(value) > spec.MAX_NUM_TENSORS:
        fail("aliases", f"{len(value)} items exceed the bound of {spec.MAX_NUM_TENSORS}")
    found: dict[str, str] = {}
    for name, target in value.items():
        check_text(name, "aliases", max_bytes=spec.MAX_NAME_BYTES)
        found[name] = check_text(target, f"aliases.{name}", max_bytes=spec.MAX_NAME_BYTES)
    return found
