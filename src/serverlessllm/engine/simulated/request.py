# SPDX-License-Identifier: Apache-2.0
"""One request inside the simulated engine: its chain of ids and when the next one is due. Reads no clock."""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.engine.simulated.ids import IdChain
from serverlessllm.types import FinishReason
from serverlessllm.wire.standby import Standing
from serverlessllm.wire.worker import Generate, TokenEvent, TokenLogprobs


class SimulatedRequest:
    """queued → `admit` → `emit` until an event carries `finish`. Times are of one monotonic clock.

    One that stands by is admitted at once, takes ids by `follow`, and emits after `go`.
    """

    def __init__(self, request: Generate, *, vocab_size: int, queued_s: float) -> None:
        self._request = request
        self._chain = IdChain(
            request.prompt_ids, seed=request.sampling.seed, choice=request.choice, vocab_size=vocab_size
        )
        for token_id in request.generated_ids:
            self._chain.follow(token_id)
        self._num_left = request.max_tokens - len(request.generated_ids)
        self._stop_token_ids = frozenset(request.stop_token_ids)
        self._queued_s = queued_s
        self._admitted_s = queued_s
        self._stall_s = 0.0
        self._is_first = True
        self._num_tokens = len(request.prompt_ids) + len(request.generated_ids)
        self._is_announced = False
        self.due_s = queued_s

    @property
    def key(self) -> tuple[str, int]:
        """Request and choice, as its events carry them."""
        return self._request.request_id, self._request.choice

    def admit(self, now_s: float, *, prefill_s: float, arrivals_s: Sequence[float] = ()) -> None:
        """Leave the queue: the first id is due `prefill_s` from now.

        Where shards came after the request (`arrivals_s`), it was admitted when it came, and each shard takes its
        share of `prefill_s` from its arrival or the end of the one before.
        """
        if not arrivals_s or arrivals_s[-1] <= self._queued_s:
            self._admitted_s = now_s
            self.due_s = now_s + prefill_s
            return
        self._admitted_s = self.due_s = self._queued_s
        for arrived_s in arrivals_s:
            self.due_s = max(self.due_s, arrived_s) + prefill_s / len(arrivals_s)
        self._stall_s = self.due_s - self._admitted_s - prefill_s

    def follow(self, token_ids: Sequence[int]) -> None:
        """Ids that were sampled elsewhere."""
        for token_id in token_ids:
            self._chain.follow(token_id)
        self._num_tokens += len(token_ids)
        self._num_left -= len(token_ids)
        self._is_announced = False

    @property
    def num_left(self) -> int:
        """Ids that may still come."""
        return self._num_left

    @property
    def is_announced(self) -> bool:
        """Whether it stands by, and that was told."""
        return self._is_announced

    def take_standing(self, now_s: float) -> Standing | None:
        """What says that it has caught up, once each time."""
        if self._is_announced or now_s < self.due_s:
            return None
        self._is_announced = True
        return Standing(*self.key, num_tokens=self._num_tokens, cached_tokens=0)

    def go(self, now_s: float) -> None:
        """It runs here from now on: its next id is due, unless the prompt still takes time."""
        self.due_s = max(self.due_s, now_s)
        self._queued_s = self._admitted_s = now_s

    def emit(self, now_s: float, *, token_s: float) -> TokenEvent:
        """The next id; the one after is due `token_s` after this one was."""
        token_id = next(self._chain)
        self._num_left -= 1
        self.due_s += token_s
        finish: FinishReason | None = None
        if token_id in self._stop_token_ids:
            finish = "stop"
        elif self._num_left == 0:
            finish = "length"
        is_first, self._is_first = self._is_first, False
        return TokenEvent(
            request_id=self._request.request_id,
            token_id=token_id,
            choice=self._request.choice,
            finish=finish,
            wait_ms=(self._admitted_s - self._queued_s) * 1e3 if is_first else 0.0,
            prefill_ms=(now_s - self._admitted_s - self._stall_s) * 1e3 if is_first else 0.0,
            stall_ms=self._stall_s * 1e3 if is_first else 0.0,
            logprobs=self._logprobs(token_id),
        )

    def _logprobs(self, token_id: int) -> TokenLogprobs | None:
        """A chain of hashes leaves no doubt: its id has probability 1, and there is no second."""
        if self._request.logprobs < 0:
            return None
        top = [token_id] if self._request.logprobs else []
        return TokenLogprobs(0.0, top, [0.0] * len(top))
