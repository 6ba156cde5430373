# SPDX-License-Identifier: Apache-2.0
"""One request on its way: its ids, its slot, its sampling. Knows no model and no other sequence."""

from __future__ import annotations

from serverlessllm.engine.llama.batch import DecodeRow, Prompt
from serverlessllm.engine.llama.sampling.penalties import Penalties, has_penalties
from serverlessllm.engine.llama.sampling.sampler import Draw
from serverlessllm.types import FinishReason
from serverlessllm.wire.worker import Generate, TokenEvent


class Sequence:
    """Queued until `admit`, then running until an event carries `finish`.

    `generated_ids` of the request were sampled elsewhere: they are computed as part of the prompt, count towards
    `max_tokens`, and the next id gets the position after them.
    """

    def __init__(self, request: Generate, arrived_s: float) -> None:
        self.request = request
        self.arrived_s = arrived_s
        self.admitted_s = arrived_s
        self.slot = -1
        self._token_ids = [*request.prompt_ids, *request.generated_ids]
        self._stop_token_ids = frozenset(request.stop_token_ids)
        self._has_started = False
        self._penalties: Penalties | None = None
        if has_penalties(request.sampling):
            self._penalties = Penalties(request.sampling, request.prompt_ids, request.generated_ids)

    @property
    def key(self) -> tuple[str, int]:
        """What tells this sequence from others: request and choice."""
        return self.request.request_id, self.request.choice

    @property
    def num_tokens(self) -> int:
        """Ids so far, prompt included."""
        return len(self._token_ids)

    def admit(self, slot: int, now_s: float) -> None:
        """Start running in `slot`."""
        self.slot, self.admitted_s = slot, now_s

    def as_prompt(self) -> Prompt:
        """All ids, for the pass that fills the slot."""
        return Prompt(self.slot, self._token_ids)

    def as_decode_row(self) -> DecodeRow:
        """The newest id, for every later pass."""
        return DecodeRow(self.slot, self._token_ids[-1], len(self._token_ids) - 1)

    def as_draw(self) -> Draw:
        """How the next id is sampled."""
        return Draw(self.request.sampling, self.request.choice, len(self._token_ids), self._penalties)

    def append(self, token_id: int, now_s: float) -> TokenEvent:
        """Take a sampled id; the event says whether it was the last. Timings are on the first event only."""
        wait_ms = prefill_ms = 0.0
        if not self._has_started:
            wait_ms = (self.admitted_s - self.arrived_s) * 1e3
            prefill_ms = (now_s - self.admitted_s) * 1e3
        self._has_started = True
        self._token_ids.append(token_id)
        if self._penalties is not None:
            self._penalties.observe(token_id)
        request = self.request
        finish = self._finish(token_id)
        return TokenEvent(request.request_id, token_id, request.choice, finish, wait_ms, prefill_ms)

    def _finish(self, token_id: int) -> FinishReason | None:
        if token_id in self._stop_token_ids:
            return "stop"
        num_generated = len(self._token_ids) - len(self.request.prompt_ids)
        return "length" if num_generated >= self.request.max_tokens else None
