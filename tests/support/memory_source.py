# SPDX-License-Identifier: Apache-2.0
"""A `TextSource` over a dict of files: what the text part needs of an artifact, without an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping

from support.tiny_tokenizer import tiny_tokenizer_files


class MemorySource:
    """The tiny tokenizer's files, with `changes` laid over them; a value of None removes the file."""

    def __init__(self, revision: str = "0" * 32, **changes: object) -> None:
        self.revision = revision
        self.num_tokenizer_reads = 0
        self._files: dict[str, bytes] = tiny_tokenizer_files()
        for stem, value in changes.items():
            name = f"{stem}.jinja" if stem == "chat_template" else f"{stem}.json"
            self._files.pop(name, None)
            if isinstance(value, bytes):
                self._files[name] = value
            elif isinstance(value, str):
                self._files[name] = value.encode()
            elif isinstance(value, Mapping):
                self._files[name] = json.dumps(value).encode()

    def file(self, name: str) -> bytes:
        self.num_tokenizer_reads += name == "tokenizer.json"
        return self._files[name]

    def config(self) -> dict[str, object]:
        config: dict[str, object] = json.loads(self._files.get("config.json", b"{}"))
        return config
