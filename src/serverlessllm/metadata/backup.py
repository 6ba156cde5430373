# SPDX-License-Identifier: Apache-2.0
"""A store's lasting facts as lines of JSON, and back: for backups, and for moving from one kind of store to another.

Lasting are models, artifacts, keys, tenants, drains and weights. Agents, placements and the leader are not kept: they
are true while their processes live. The file holds hashes of keys, no keys; links of sources are in it as given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from serverlessllm.errors import ConfigError, ConflictError
from serverlessllm.metadata.keys import ROOT, Keys
from serverlessllm.metadata.store import Entry, MetadataStore

FORMAT: Final = "sllm-metadata"
VERSION: Final = 1
LASTING: Final = (
    Keys.MODELS,
    Keys.ARTIFACTS,
    Keys.TENANTS,
    Keys.API_KEYS,
    Keys.DRAINED,
    Keys.SCHEDULER_WEIGHTS,
)


async def dump(store: MetadataStore) -> list[str]:
    """A head line, then one line per entry, by key; all of one moment. Raises MetadataUnavailableError."""
    entries, revision = await store.range(ROOT)
    head = json.dumps({"format": FORMAT, "version": VERSION, "revision": revision})
    return [head, *(_line(entry) for entry in entries if entry.key.startswith(LASTING))]


def _line(entry: Entry) -> str:
    return json.dumps({"key": entry.key, "value": json.loads(entry.value)}, sort_keys=True)


async def restore(store: MetadataStore, lines: Iterable[str], *, replaces: bool = False) -> int:
    """Write the entries of a dump; how many. All lines are checked before the first write.

    Raises: ConfigError for a file that is no dump of ours; ConflictError naming an entry that is there already,
    unless it `replaces` what is there; MetadataUnavailableError.
    """
    entries = list(parse(lines))
    if not replaces:
        present = {entry.key for entry in (await store.range(ROOT))[0]}
        taken = next((key for key, _ in entries if key in present), None)
        if taken is not None:
            raise ConflictError(
                f"{taken} is in the store already; restore into an empty one, or replace what is there"
            )
    for key, value in entries:
        await store.put(key, value)
    return len(entries)


def parse(lines: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The entries of a dump. Raises ConfigError naming the line."""
    is_first = True
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            if is_first:
                is_known = found["format"] == FORMAT and found["version"] == VERSION
            else:
                key, value = found["key"], json.dumps(found["value"], sort_keys=True).encode()
                is_known = isinstance(key, str) and key.startswith(LASTING)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"line {number} is no line of a metadata dump: {error}") from error
        if not is_known:
            raise ConfigError(f"line {number} is no line of a metadata dump of version {VERSION}")
        if not is_first:
            yield key, value
        is_first = False
    if is_first:
        raise ConfigError("the file is empty: no metadata dump")
