# SPDX-License-Identifier: Apache-2.0
"""An answer over HTTP: as a stream of events, or as one JSON object. The grammar is `wire/sse.py`'s.

Headers leave with the first piece, so that whatever fails before has a status of its own; what fails later is an
event. A client that leaves cancels the handler, which closes the pieces, which cancels the request in the engine.
"""

from __future__ import annotations

from contextlib import aclosing

import msgspec
from aiohttp import web

from serverlessllm.agent.chunks import ChunkWriter
from serverlessllm.agent.embedding import Embeddings
from serverlessllm.agent.inference import Inference
from serverlessllm.errors import SllmError
from serverlessllm.wire import sse
from serverlessllm.wire.agent import AGENT_TIMING_HEADER, REQUEST_ID_HEADER


async def answer(request: web.Request, inference: Inference) -> web.StreamResponse:
    """Run it to its end. Raises: what `Inference.pieces` raises before the first piece, and HoldDeadlineError."""
    if inference.request.is_stream:
        return await _stream(request, inference)
    return await _whole(inference)


async def answer_embeddings(embeddings: Embeddings) -> web.Response:
    """Run it to its end. Raises as `Embeddings.answer`."""
    body = await embeddings.answer()
    return web.Response(body=body, content_type="application/json", headers=_headers(embeddings))


async def _stream(request: web.Request, inference: Inference) -> web.StreamResponse:
    writer = _writer(inference)
    response: web.StreamResponse | None = None
    try:
        async with inference.within_deadline(), aclosing(inference.pieces()) as pieces:
            async for piece in pieces:
                data = sse.event(piece.seq, writer.chunk(piece))
                if response is None:
                    response = await _start(request, inference)
                    data = sse.PROMPT_COMMENT + inference.prompt_digest.encode() + b"\n" + data
                await response.write(data)
    except SllmError as error:
        if response is None:
            raise
        await response.write(sse.failure(error))
    else:
        if response is None:
            raise SllmError("the engine ended the answer without an id", source="agent")
        await response.write(_end(inference, writer))
    return response


async def _start(request: web.Request, inference: Inference) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            **_headers(inference),
        }
    )
    await response.prepare(request)
    return response


def _end(inference: Inference, writer: ChunkWriter) -> bytes:
    if not inference.request.include_usage:
        return sse.DONE
    return sse.event(inference.num_tokens, writer.usage_chunk(inference.usage)) + sse.DONE


async def _whole(inference: Inference) -> web.Response:
    async with inference.within_deadline(), aclosing(inference.pieces()) as stream:
        pieces = [piece async for piece in stream]
    body = _writer(inference).completion(pieces, inference.usage)
    return web.Response(
        body=body,
        content_type="application/json",
        headers=_headers(inference),
    )


def _writer(inference: Inference) -> ChunkWriter:
    headers = inference.headers
    return ChunkWriter(
        inference.endpoint,
        headers.request_id,
        headers.created_s,
        inference.request.model,
        include_usage=inference.request.include_usage,
    )


def _headers(work: Inference | Embeddings) -> dict[str, str]:
    return {
        AGENT_TIMING_HEADER: msgspec.json.encode(work.timing).decode(),
        REQUEST_ID_HEADER: work.headers.request_id,
    }
