# SPDX-License-Identifier: Apache-2.0
"""An answer over HTTP: as a stream of events, or as one JSON object. The grammar is `wire/sse.py`'s.

Headers leave with the first piece, so that whatever fails before has a status of its own; what fails later is an
event. Who leaves a whole answer cancels it: its handler is cancelled, which closes the pieces, which cancels the
request in the engine. Who leaves a stream leaves it running (`running_answers.py`).
"""

from __future__ import annotations

from contextlib import aclosing

import msgspec
from aiohttp import web

from serverlessllm.agent.chunks import ChunkWriter
from serverlessllm.agent.embedding import Embeddings
from serverlessllm.agent.inference import Inference
from serverlessllm.agent.running_answer import RunningAnswer
from serverlessllm.wire import sse
from serverlessllm.wire.agent import (
    AGENT_TIMING_HEADER,
    CREATED_HEADER,
    HOP_HEADER,
    REQUEST_ID_HEADER,
    SEED_HEADER,
    InferHeaders,
    InferTiming,
)


async def answer_whole(inference: Inference) -> web.Response:
    """Run it to its end, as one object. Raises as `Inference.pieces`, and HoldDeadlineError."""
    async with inference.within_deadline(), aclosing(inference.pieces()) as stream:
        pieces = [piece async for piece in stream]
    headers = inference.headers
    writer = ChunkWriter(inference.endpoint, headers.request_id, headers.created_s, inference.request.model)
    body = writer.completion(pieces, inference.usage)
    return web.Response(
        body=body, content_type="application/json", headers=_headers(headers, inference.timing)
    )


async def answer_stream(request: web.Request, running: RunningAnswer, from_seq: int) -> web.StreamResponse:
    """Write what follows `from_seq` until it ends. Raises what came instead of the first event; AnswerGoneError.

    Where the agent stops, the connection is cut: an answer without `[DONE]` must not look whole.
    """
    await running.begun()
    running.check_kept(from_seq)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            HOP_HEADER: str(running.headers.hop),
            SEED_HEADER: str(running.headers.seed),
            CREATED_HEADER: str(running.headers.created_s),
            **_headers(running.headers, running.timing),
        }
    )
    await response.prepare(request)
    data = b""
    async with aclosing(running.follow(from_seq)) as events:
        async for data in events:
            await response.write(data)
    if not data.endswith(sse.DONE) and request.transport is not None:
        request.transport.abort()
    return response


async def answer_embeddings(embeddings: Embeddings) -> web.Response:
    """Run it to its end. Raises as `Embeddings.answer`."""
    body = await embeddings.answer()
    return web.Response(
        body=body, content_type="application/json", headers=_headers(embeddings.headers, embeddings.timing)
    )


def _headers(headers: InferHeaders, timing: InferTiming | None) -> dict[str, str]:
    told = {REQUEST_ID_HEADER: headers.request_id}
    if timing is not None:
        told[AGENT_TIMING_HEADER] = msgspec.json.encode(timing).decode()
    return told
