# SPDX-License-Identifier: Apache-2.0
"""What a placement may know of a request's prompt: the names of its chunks, and about how many tokens it has.

Worked out when first asked for: most requests have one place to go. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Set
from functools import cached_property
from typing import Final

from serverlessllm.types import adapter_salt
from serverlessllm.wire.embeddings import EmbeddingRequest
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
from serverlessllm.wire.prompt_chunks import CHUNK_BYTES, canonical_text, chunk_names

BYTES_PER_TOKEN: Final = 4
"""As English text has with vocabularies of 50,000 to 150,000; other texts have fewer."""


class Prompt:
    """Of one request; `salt` is its tenant's, `adapter` the revision of the one it names.

    Texts that become vectors leave nothing behind that a later request could use: they have no chunks.
    """

    def __init__(
        self, request: ChatRequest | CompletionRequest | EmbeddingRequest, salt: str, adapter: str = ""
    ) -> None:
        self.salt = salt
        self._adapter = adapter
        self._request = request

    @cached_property
    def _text(self) -> bytes:
        return b"" if isinstance(self._request, EmbeddingRequest) else canonical_text(self._request)

    @cached_property
    def _names(self) -> list[int]:
        return chunk_names(self._text, adapter_salt(self.salt, self._adapter))

    @property
    def num_tokens(self) -> int:
        """An estimate."""
        return len(self._text) // BYTES_PER_TOKEN

    @property
    def first_chunk(self) -> int | None:
        """The name of the prompt's beginning; None when it is shorter than a chunk."""
        return self._names[0] if self._names else None

    def uncached_tokens(self, cached: Set[int]) -> int:
        """An estimate of what a replica must compute that has the chunks `cached`."""
        num_hits = next((at for at, name in enumerate(self._names) if name not in cached), len(self._names))
        return (len(self._text) - num_hits * CHUNK_BYTES) // BYTES_PER_TOKEN
