# SPDX-License-Identifier: Apache-2.0
"""What one `/v1` request is: checked and decoded, named, given its timeline, and handed on to be answered.

Bodies are handed on untouched. A client that leaves cancels its request in every phase: this coroutine is cancelled,
which leaves the wake-up, or ends the run at its agent.
"""

from __future__ import annotations

import asyncio
import random

from aiohttp import web

from serverlessllm.clock import Clock
from serverlessllm.config import OrchestratorConfig
from serverlessllm.errors import HoldDeadlineError, SllmError, UnsupportedFieldError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.admission import TENANT
from serverlessllm.orchestrator.cache_salts import CacheSalts
from serverlessllm.orchestrator.call import Call
from serverlessllm.orchestrator.deadlines import Deadlines
from serverlessllm.orchestrator.dispatch import Dispatch
from serverlessllm.orchestrator.exchange import Exchange
from serverlessllm.orchestrator.formats import check_formats
from serverlessllm.orchestrator.models import Models
from serverlessllm.orchestrator.prompt import Prompt
from serverlessllm.orchestrator.request_id import last_event_id, request_id
from serverlessllm.orchestrator.request_metrics import RequestMetrics
from serverlessllm.telemetry.timeline import Timeline, TimelineRing
from serverlessllm.types import base_name
from serverlessllm.wire import openai
from serverlessllm.wire.agent import REQUEST_ID_HEADER
from serverlessllm.wire.embeddings import EmbeddingRequest, parse_embeddings
from serverlessllm.wire.openai import Endpoint


class Proxy:
    """Serves `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`."""

    def __init__(
        self,
        models: Models,
        ring: TimelineRing,
        dispatch: Dispatch,
        metrics: RequestMetrics,
        config: OrchestratorConfig,
        secret: str,
        clock: Clock,
    ) -> None:
        self._models = models
        self._ring = ring
        self._dispatch = dispatch
        self._metrics = metrics
        self._config = config
        self._salts = CacheSalts(secret)
        self._clock = clock

    def begin_stop(self) -> None:
        """No stream is cancelled from now on: clients that lose theirs come back for it, at another orchestrator."""
        self._dispatch.runs.is_stopping = True

    async def stop(self) -> None:
        """Tell agents what is to end."""
        await self._dispatch.runs.stop()

    async def serve(self, request: web.Request, body: bytes, endpoint: Endpoint) -> web.StreamResponse:
        """Answer one request whose admission was checked. Raises SllmError for a request that is not accepted."""
        arrived_s = self._clock.monotonic_s()
        parsed = parse_embeddings(body) if endpoint == "embeddings" else openai.parse(endpoint, body)
        if not isinstance(parsed, EmbeddingRequest):
            await check_formats(parsed)
        record = self._models.get(base_name(parsed.model))
        if record.name != parsed.model and endpoint == "embeddings":
            raise UnsupportedFieldError(
                "model: adapters make no embeddings; name the base model", param="model"
            )
        adapter = self._models.get(parsed.model) if record.name != parsed.model else None
        last_seq = last_event_id(request.headers) if parsed.is_stream else None
        timeline = Timeline(
            request_id=self._request_id(request, endpoint, is_back=last_seq is not None),
            model=parsed.model,
            endpoint=endpoint,
            arrived_s=self._clock.wall_s(),
            is_stream=parsed.is_stream,
            tenant=request[TENANT],
        )
        exchange = Exchange(request, body, timeline, arrived_s, self._clock)
        exchange.deadlines = Deadlines.of(request.headers, arrived_s)
        self._ring.start(timeline)
        try:
            if adapter is not None:
                adapter = await self._settled(adapter.name)
            prompt = Prompt(parsed, self._salts.of(timeline.tenant), (adapter and adapter.revision) or "")
            seed = random.getrandbits(63) | 1
            call = Call(exchange, record, parsed, prompt, endpoint=endpoint, seed=seed, adapter=adapter)
            dispatch = self._dispatch
            answer = dispatch.answer(call) if last_seq is None else dispatch.rejoin(call, last_seq)
            return await exchange.deadlines.bound(answer, lambda: exchange.has_begun, self._clock)
        except SllmError as error:
            return await exchange.fail(error)
        except ConnectionResetError:
            return exchange.response  # the client left between two writes
        finally:
            exchange.cancelled()  # no effect on one that has ended
            self._ring.finish(timeline)
            self._metrics.finished(timeline)

    async def _settled(self, adapter: str) -> ModelRecord:
        """An adapter's record once its bytes are there. Raises: ModelNotFoundError, HoldDeadlineError."""
        try:
            async with asyncio.timeout(self._config.hold_timeout_s):
                return await self._models.settled(adapter, lambda text: None)
        except TimeoutError as error:
            raise HoldDeadlineError(f"adapter {adapter} was not registered in time") from error

    def _request_id(self, request: web.Request, endpoint: Endpoint, *, is_back: bool) -> str:
        chosen = request_id(request.headers.get(REQUEST_ID_HEADER), endpoint)
        if is_back:
            return chosen
        running = self._ring.get(chosen)
        if running is not None and running.state in ("held", "running"):
            return request_id(None, endpoint)  # an id names one request: the later twin gets another
        return chosen
