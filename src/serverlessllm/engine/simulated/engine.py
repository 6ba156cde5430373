# SPDX-License-Identifier: Apache-2.0
"""The simulated engine: the Protocol of engine/base.py with configured times and predictable ids.

Knows no weights (a region is accepted and never read), no sockets and no text. Its times come with the
attach, as options, all in seconds and 0 by default: `load_s` to bind, `prefill_s` from admission to the first
id, `token_s` from one id to the next. `device_bytes_per_s` makes binding last as long as the weights would take to a
device, beside `load_s` (0: no time). Each id has a due time counted from the one before, so that the
rate holds however late a single `step` comes; `due_in_s` says how long a driver may sleep.

Weights that are still arriving are waited for as a real engine waits: shard i takes its share of `prefill_s` once it
is there and shard i-1 is done, so that a first id is due at the later of both ends.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.engine.base import BindReport, EngineLimits, Weights
from serverlessllm.engine.simulated.ids import DEFAULT_VOCAB_SIZE, FIRST_ID, expected_ids
from serverlessllm.engine.simulated.request import SimulatedRequest
from serverlessllm.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    MigrationRefusedError,
    UnsupportedCheckpointError,
)
from serverlessllm.wire.standby import Extend, Standing
from serverlessllm.wire.worker import Generate, TokenEvent

__all__ = ["OPTIONS", "SimulatedEngine", "create", "expected_ids"]

OPTIONS: Final = ("load_s", "prefill_s", "token_s", "device_bytes_per_s")
DEFAULT_MAX_MODEL_LEN_TOKENS: Final = 32_768


class SimulatedEngine:
    """Answers every request with its hash chain, each id when it is due; `pause` is how binding waits."""

    name = "simulated"

    def __init__(
        self, dtype: str, *, clock: Clock | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.dtype = dtype
        self._clock = clock or SystemClock()
        self._pause = pause
        self._limits: EngineLimits | None = None
        self._options: Mapping[str, float] = {}
        self._vocab_size = DEFAULT_VOCAB_SIZE
        self._is_quiet = False
        self._num_shards = 0
        self._arrivals_s: list[float] = []
        self._queued: deque[SimulatedRequest] = deque()
        self._running: dict[tuple[str, int], SimulatedRequest] = {}
        self._standing: dict[tuple[str, int], SimulatedRequest] = {}

    def prime(self) -> None:
        """Nothing to warm."""

    def attach_weights(self, weights: Weights, limits: EngineLimits, options: dict[str, float]) -> BindReport:
        """Take the vocabulary and context length of the architecture; lasts `load_s` and the way to the device.

        Raises: EngineError for an unknown or negative option, UnsupportedCheckpointError for a vocabulary or
        context length that is none.
        """
        architecture = weights.layout.architecture
        self._options = _checked_options(options)
        self._vocab_size = _positive(architecture, "vocab_size", DEFAULT_VOCAB_SIZE, low=FIRST_ID + 1)
        own_len_tokens = _positive(architecture, "max_position_embeddings", DEFAULT_MAX_MODEL_LEN_TOKENS)
        max_len_tokens = min(limits.max_model_len_tokens or own_len_tokens, own_len_tokens)
        self._limits = EngineLimits(limits.max_num_seqs, max_len_tokens)
        self._num_shards = len(weights.shards)
        self.shards_arrived(weights.num_ready)
        bind_s = self._options["load_s"]
        if self._options["device_bytes_per_s"] > 0:
            bind_s += weights.region.nbytes / self._options["device_bytes_per_s"]
        if bind_s > 0:
            self._pause(bind_s)
        return BindReport(max_model_len_tokens=max_len_tokens, copied_bytes=0)

    def detach_weights(self) -> None:
        """Forget the model and every request."""
        self._attached()
        self._limits = None
        self._is_quiet = False
        self._queued.clear()
        self._running.clear()
        self._standing.clear()

    def quiesce(self) -> None:
        """Emit nothing until `resume`; due times go on."""
        self._attached()
        self._is_quiet = True

    def resume(self) -> None:
        """Emit again; ids that came due meanwhile follow at once."""
        self._attached()
        self._is_quiet = False

    def add(self, request: Generate) -> None:
        """Queue a request; `max_tokens` counts `generated_ids` too.

        Raises: InvalidRequestError, ContextLengthError; then nothing was queued.
        """
        limits = self._attached()
        if not request.prompt_ids:
            raise InvalidRequestError("prompt: holds no tokens", param="prompt")
        if len(request.generated_ids) >= request.max_tokens:
            raise InvalidRequestError(
                f"max_tokens: {request.max_tokens} leaves nothing to generate after "
                f"{len(request.generated_ids)} tokens",
                param="max_tokens",
            )
        num_tokens = len(request.prompt_ids) + request.max_tokens
        if num_tokens > limits.max_model_len_tokens:
            raise ContextLengthError(
                f"prompt of {len(request.prompt_ids)} tokens plus max_tokens {request.max_tokens} exceed the "
                f"model's context of {limits.max_model_len_tokens} tokens",
                param="max_tokens",
            )
        queued_s = self._clock.monotonic_s()
        added = SimulatedRequest(request, vocab_size=self._vocab_size, queued_s=queued_s)
        if request.is_standby:
            if not self._has_weights:
                raise MigrationRefusedError("the model still arrives here", source="engine")
            added.admit(queued_s, prefill_s=self._options["prefill_s"])
            self._standing[added.key] = added
        else:
            self._queued.append(added)

    def extend(self, message: Extend) -> None:
        """See `StandbyEngine`. Raises: InvalidRequestError."""
        key = (message.request_id, message.choice)
        standing = self._standing.get(key)
        if standing is None:
            raise InvalidRequestError(
                f"choice {message.choice} of the request does not stand by here", param="choice"
            )
        if len(message.token_ids) >= standing.num_left:
            raise InvalidRequestError("token_ids: they leave nothing to generate", param="token_ids")
        standing.follow(message.token_ids)
        if message.is_last:
            standing.go(self._clock.monotonic_s())
            self._running[key] = self._standing.pop(key)

    def take_standing(self) -> list[Standing]:
        """See `StandbyEngine`."""
        now_s = self._clock.monotonic_s()
        return [told for one in self._standing.values() if (told := one.take_standing(now_s)) is not None]

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Drop one choice of a request, or all of them, queued or running."""

        def is_kept(request: SimulatedRequest) -> bool:
            return request.key[0] != request_id or choice not in (None, request.key[1])

        self._running = {key: running for key, running in self._running.items() if is_kept(running)}
        self._standing = {key: standing for key, standing in self._standing.items() if is_kept(standing)}
        self._queued = deque(queued for queued in self._queued if is_kept(queued))

    @property
    def has_work(self) -> bool:
        """Whether a request waits for ids, and not for weights."""
        if not self._has_weights or self._is_quiet:
            return False
        return bool(self._running or self._queued) or any(self._preparing())

    @property
    def _has_weights(self) -> bool:
        return len(self._arrivals_s) == self._num_shards

    def _preparing(self) -> Iterator[SimulatedRequest]:
        """Those that stand by and have not caught up."""
        return (standing for standing in self._standing.values() if not standing.is_announced)

    @property
    def can_stream(self) -> bool:
        """See `StreamingEngine`."""
        return True

    def shards_arrived(self, num_shards: int) -> None:
        """The first `num_shards` are there from now on."""
        now_s = self._clock.monotonic_s()
        self._arrivals_s += [now_s] * (num_shards - len(self._arrivals_s))

    def take_wanted(self) -> list[tuple[int, int]]:
        """Nothing: no byte is ever read."""
        return []

    def take_early(self, offset: int, data: bytes) -> None:
        """Nothing is ever wanted."""

    @property
    def due_in_s(self) -> float:
        """Seconds until `step` will return something or admit someone; 0 when it is late."""
        if self._queued and len(self._running) < self._attached().max_num_seqs:
            return 0.0
        now_s = self._clock.monotonic_s()
        waiting = [*self._running.values(), *self._preparing()]
        return max(0.0, min((request.due_s for request in waiting), default=now_s) - now_s)

    def step(self) -> list[TokenEvent]:
        """One id of every running request that is due; [] when none is."""
        limits = self._attached()
        if not self.has_work:
            return []
        now_s = self._clock.monotonic_s()
        while self._queued and len(self._running) < limits.max_num_seqs:
            admitted = self._queued.popleft()
            admitted.admit(now_s, prefill_s=self._options["prefill_s"], arrivals_s=self._arrivals_s)
            self._running[admitted.key] = admitted
        self._num_shards, self._arrivals_s = 0, []  # who comes from here on waits for no weights
        due = [running for running in self._running.values() if running.due_s <= now_s]
        events = [running.emit(now_s, token_s=self._options["token_s"]) for running in due]
        for event in events:
            if event.finish is not None:
                del self._running[event.request_id, event.choice]
        return events

    def _attached(self) -> EngineLimits:
        if self._limits is None:
            raise EngineError("the simulated engine has no model attached; attach one first")
        return self._limits


def create(dtype: str, num_threads: int, device: str = "cpu", arena_path: str = "") -> SimulatedEngine:
    """The factory of kind `simulated`; computes nothing, so only `dtype` is used."""
    del num_threads, device, arena_path
    return SimulatedEngine(dtype)


def _checked_options(options: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise EngineError(f"option {unknown[0]!r} is unknown to the simulated engine; known: {OPTIONS}")
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise EngineError(f"option {name!r}: {value} is not a number ≥ 0")
    return {name: options.get(name, 0.0) for name in OPTIONS}


def _positive(architecture: Mapping[str, object], key: str, default: int, *, low: int = 1) -> int:
    value = architecture.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UnsupportedCheckpointError(
            f"{key}: {value!r} is not an integer ≥ {low}; correct the artifact's config.json",
            param=key,
            source="engine",
        )
    return value
