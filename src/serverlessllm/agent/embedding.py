# SPDX-License-Identifier: Apache-2.0
"""One request for embeddings at one replica: from the client's body to the whole answer.

The engine pools; what follows (fewer dimensions, length one, base64) is arithmetic on finished vectors and done here.
Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import numpy.typing as npt

from serverlessllm.agent.queue import NO_DEADLINE_S
from serverlessllm.agent.replica import Replica
from serverlessllm.clock import Clock
from serverlessllm.errors import (
    ContextLengthError,
    HoldDeadlineError,
    InvalidRequestError,
    UnsupportedFieldError,
)
from serverlessllm.text.embedding_recipe import EmbeddingRecipe
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.wire.agent import InferHeaders, InferTiming
from serverlessllm.wire.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    parse_embeddings,
)
from serverlessllm.wire.worker import Embed

Vector = npt.NDArray[np.float32]


class Embeddings:
    """`answer` once. `timing` is there afterwards."""

    def __init__(
        self, headers: InferHeaders, body: bytes, replica: Replica, clock: Clock, encoding: asyncio.Semaphore
    ) -> None:
        """`encoding` bounds how many texts are encoded at once. Raises: InvalidRequestError naming the field."""
        self.headers = headers
        self.request: EmbeddingRequest = parse_embeddings(body)
        self.timing: InferTiming | None = None
        self._replica = replica
        self._clock = clock
        self._encoding = encoding
        left_s = headers.deadline_ms / 1e3
        self._left_s = left_s if left_s > 0 else None
        self._deadline_s = NO_DEADLINE_S if self._left_s is None else clock.monotonic_s() + left_s

    async def answer(self) -> bytes:
        """The body of the answer, as JSON.

        Raises: UnsupportedFieldError for a model that declares no embeddings; InvalidRequestError,
        ContextLengthError; ReplicaGoneError, QueueFullError, HoldDeadlineError while it waits; WorkerLostError.
        """
        async with self._within_deadline():
            text = self._replica.text
            recipe = text.recipe
            if recipe.problem:
                raise UnsupportedFieldError(
                    f"model: {self.headers.model} makes no embeddings: {recipe.problem}", param="model"
                )
            inputs = await self._encode(text)
            queued_s = self._clock.monotonic_s()
            async with self._replica.turn(self.headers.priority, self._deadline_s) as slot:
                seated_s = self._clock.monotonic_s()
                embedded = await slot.embed(Embed(self.headers.request_id, inputs, recipe.pooling))
            num_tokens = sum(map(len, inputs))
            self.timing = InferTiming(
                queue_ms=(seated_s - queued_s) * 1e3,
                prefill_ms=(self._clock.monotonic_s() - seated_s) * 1e3,
                prompt_tokens=num_tokens,
            )
            return await asyncio.to_thread(self._encoded, embedded.vectors, recipe, num_tokens)

    @asynccontextmanager
    async def _within_deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._left_s):
                yield
        except TimeoutError as error:
            raise HoldDeadlineError("the request's deadline passed", source="agent") from error

    async def _encode(self, text: TextModel) -> list[list[int]]:
        """Ids of every input; those that came as ids get no prompt."""
        found = []
        async with self._encoding:
            for index, item in enumerate(self.request.inputs):
                ids = (
                    item if isinstance(item, list) else await text.encode_off_loop(text.recipe.prompt + item)
                )
                self._check(ids, index)
                found.append(ids)
        return found

    def _check(self, ids: list[int], index: int) -> None:
        param, limit = f"input[{index}]", self._replica.max_model_len_tokens
        if not ids:
            raise InvalidRequestError(f"{param}: encodes to no tokens", param=param)
        if len(ids) > limit:
            raise ContextLengthError(
                f"{param} has {len(ids)} tokens, the model's context is {limit}; shorten it", param=param
            )

    def _encoded(self, vectors: list[bytes], recipe: EmbeddingRecipe, num_tokens: int) -> bytes:
        is_base64 = self.request.encoding_format == "base64"
        data = []
        for index, raw in enumerate(vectors):
            vector = finished(np.frombuffer(raw, dtype="<f4"), recipe, self.request.dimensions)
            spelled = base64.b64encode(vector.tobytes()).decode() if is_base64 else vector.tolist()
            data.append(Embedding(index, spelled))
        usage = EmbeddingUsage(num_tokens, num_tokens)
        return msgspec.json.encode(EmbeddingList(data, self.headers.model, usage))


def finished(vector: Vector, recipe: EmbeddingRecipe, dimensions: int | None) -> Vector:
    """Cut to its first `dimensions`, then scaled to length one where the model's recipe does so.

    Raises: InvalidRequestError naming `dimensions` when the vector has fewer.
    """
    if dimensions is not None and dimensions > vector.size:
        raise InvalidRequestError(
            f"dimensions: this model's vectors have {vector.size}, not {dimensions}", param="dimensions"
        )
    cut = vector[:dimensions]
    length = float(np.linalg.norm(cut))
    return (cut / np.float32(length)).astype("<f4") if recipe.normalizes and length > 0 else cut
