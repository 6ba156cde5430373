# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/embeddings` as we take it and answer it. Knows no model."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError
from serverlessllm.types import check_model_name
from serverlessllm.wire.openai import field_error

MAX_INPUTS: Final = 2048
"""As OpenAI bounds them."""
MAX_DIMENSIONS: Final = 1 << 16


class EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`input`: a text, a list of texts, a list of token ids, or a list of such lists."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    is_stream = False

    @property
    def inputs(self) -> list[str | list[int]]:
        """Every input on its own. Raises: InvalidRequestError for a list that mixes ids with others."""
        if isinstance(self.input, str):
            return [self.input]
        ids = [item for item in self.input if isinstance(item, int)]
        if ids and len(ids) == len(self.input):
            return [ids]
        if ids:
            raise InvalidRequestError("input: ids stand in lists of their own", param="input")
        return [item for item in self.input if not isinstance(item, int)]


_decoder: Final = msgspec.json.Decoder(EmbeddingRequest)


def parse_embeddings(body: bytes) -> EmbeddingRequest:
    """Decode and check a request. Raises: InvalidRequestError naming the field."""
    try:
        request = _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    check_model_name(request.model)
    inputs = request.inputs
    if not inputs or len(inputs) > MAX_INPUTS:
        raise InvalidRequestError(f"input: 1 to {MAX_INPUTS} texts or lists of ids", param="input")
    for index, item in enumerate(inputs):
        if not item:
            raise InvalidRequestError(f"input[{index}]: must not be empty", param=f"input[{index}]")
        if isinstance(item, list) and any(not 0 <= token < 2**31 for token in item):
            raise InvalidRequestError(
                f"input[{index}]: token ids must be non-negative 32-bit integers", param=f"input[{index}]"
            )
    if request.dimensions is not None and not 1 <= request.dimensions <= MAX_DIMENSIONS:
        raise InvalidRequestError(f"dimensions: between 1 and {MAX_DIMENSIONS}", param="dimensions")
    return request


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Token counts: only of prompts."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    """One vector: numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingList(msgspec.Struct, frozen=True):
    """The answer: one vector per input, in order."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"
