# SPDX-License-Identifier: Apache-2.0
"""One request on its way: its ids, its slot, its blocks, its sampling. Knows no model and no other sequence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serverlessllm.engine.llama.batch import DecodeRow, Prompt
from serverlessllm.engine.llama.block_chain import BLOCK_TOKENS, num_blocks_for
from serverlessllm.engine.llama.block_table import BlockTable
from serverlessllm.engine.llama.sampling.grammar import AnswerGrammar
from serverlessllm.engine.llama.sampling.penalties import Penalties, has_penalties
from serverlessllm.engine.llama.sampling.sampler import Draw
from serverlessllm.errors import EngineError
from serverlessllm.types import FinishReason
from serverlessllm.wire.standby import Standing
from serverlessllm.wire.worker import Failed, Generate, TokenEvent, TokenLogprobs


class Sequence:
    """Queued until `admit` or `fork`, then running until an event carries `finish`, or queued again by `preempt`.

    `generated_ids` of the request were sampled elsewhere: they are computed as part of the prompt, count towards
    `max_tokens`, and the next id gets the position after them. So do its own ids after a preemption.

    One that stands by (it runs elsewhere) computes all of its ids but the newest, gets more by `extend`, and is like
    any other after `go`.
    """

    def __init__(
        self,
        request: Generate,
        table: BlockTable,
        serial: int,
        arrived_s: float,
        grammar: AnswerGrammar | None = None,
    ) -> None:
        """`serial` orders sequences by arrival; `grammar` has seen the request's `generated_ids`."""
        self.request = request
        self.table = table
        self.serial = serial
        self.slot = -1
        self.num_computed = 0
        self._arrived_s = arrived_s
        self._admitted_s: float | None = None
        self._stalled_s = 0.0
        self._num_cached = 0
        self._token_ids = [*request.prompt_ids, *request.generated_ids]
        self._stop_token_ids = frozenset(request.stop_token_ids)
        self._has_started = False
        self.is_standby = request.is_standby
        self._is_announced = False
        self._grammar = grammar
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

    @property
    def num_left(self) -> int:
        """Ids whose keys and values are not in the slot yet; at least 1."""
        return len(self._token_ids) - self.num_computed

    @property
    def num_rows(self) -> int:
        """Ids that the next passes compute."""
        return self.num_left - 1 if self.is_standby else self.num_left

    @property
    def is_decoding(self) -> bool:
        """Whether all ids but the newest are in the slot, and another one is wanted."""
        return self.num_computed > 0 and self.num_left == 1 and not self.is_standby

    @property
    def has_started(self) -> bool:
        """Whether an id was sampled here."""
        return self._has_started

    def may_fork(self, leader: Sequence) -> bool:
        """Whether this queued sequence is another choice of `leader`, which has computed the prompt, or will."""
        mine, other = self.request, leader.request
        return (
            mine.request_id == other.request_id
            and mine.cache_salt == other.cache_salt
            and mine.adapter == other.adapter
            and not self._has_started
            and not leader.has_started
            and not mine.is_standby
            and not other.is_standby
            and mine.prompt_ids == other.prompt_ids
            and mine.generated_ids == other.generated_ids
        )

    def try_admit(self, *, num_spare: int) -> bool:
        """Hold blocks for all ids, if `num_spare` remain."""
        num_cached = self.table.begin(self._token_ids, num_spare=num_spare)
        if num_cached is None:
            return False
        self.num_computed = num_cached
        return True

    def admit(self, slot: int, now_s: float) -> None:
        """Start running in `slot`, whose window gets what is cached."""
        self.table.load(slot)
        self._start(slot, self.num_computed, now_s)

    def fork(self, leader: Sequence, slot: int, now_s: float) -> None:
        """Start running in `slot`, whose window has all that `leader`'s has."""
        self.table.share(leader.table)
        self.num_computed = leader.num_computed
        self._start(slot, leader.num_computed, now_s)

    def _start(self, slot: int, num_cached: int, now_s: float) -> None:
        self.slot = slot
        if self._admitted_s is None:
            self._admitted_s = now_s
            self._num_cached = (
                num_cached if self.is_standby else min(num_cached, len(self.request.prompt_ids))
            )

    def reserve(self) -> bool:
        """Whether there are blocks for all ids so far, and for the one that comes next; takes them where they are
        missing.
        """
        if not self.table.make_room(self.num_computed):
            return False
        num_blocks = num_blocks_for(len(self._token_ids))
        while len(self.table.blocks) < num_blocks:
            if not self.table.make_room(len(self.table.blocks) * BLOCK_TOKENS):
                return False
        return True

    def extend(self, token_ids: list[int]) -> None:
        """Take ids that were sampled elsewhere."""
        self._token_ids += token_ids
        for token_id in token_ids:
            self._observe(token_id)
        self._is_announced = False

    def go(self, now_s: float) -> None:
        """It runs here from now on."""
        self.is_standby = False
        self._arrived_s = now_s
        self._admitted_s = None if self._admitted_s is None else now_s

    def take_standing(self) -> Standing | None:
        """What says that it has caught up, once each time."""
        if self._is_announced or self.slot < 0 or not self.is_standby or self.num_rows:
            return None
        self._is_announced = True
        return Standing(*self.key, num_tokens=len(self._token_ids), cached_tokens=self._num_cached)

    def preempt(self) -> None:
        """Give slot and blocks back; the ids stay, to be computed again."""
        self.table.clear()
        self.slot, self.num_computed = -1, 0

    def as_prompt(self, num_tokens: int) -> Prompt:
        """The next `num_tokens` ids, for the pass that puts them into the slot."""
        end = self.num_computed + num_tokens
        ids = self._token_ids[self.num_computed : end]
        return Prompt(self.slot, ids, self.num_computed, is_whole=end == len(self._token_ids))

    def as_decode_row(self) -> DecodeRow:
        """The newest id, for every later pass."""
        return DecodeRow(self.slot, self._token_ids[-1], len(self._token_ids) - 1)

    def as_draw(self) -> Draw:
        """How the next id is sampled."""
        return Draw(self.request.sampling, self.request.choice, len(self._token_ids), self._penalties)

    def restrict(self, logits: npt.NDArray[np.float32]) -> Failed | None:
        """Hide the ids that may not come next from `logits` (vocab,); a failure when that takes too much."""
        if self._grammar is None:
            return None
        try:
            self._grammar.restrict(logits)
        except EngineError as error:
            return Failed(error.message, error.code, self.request.request_id)
        return None

    def advance(self, num_tokens: int) -> None:
        """`num_tokens` more are in the slot."""
        self.num_computed += num_tokens
        self.table.seal(self._token_ids, self.num_computed, self.slot)

    def note_computed(self, now_s: float, computed_s: float) -> None:
        """Of the time since its admission it was computed for so long, and waited for weights otherwise."""
        if self._admitted_s is not None:
            self._stalled_s = max(0.0, now_s - self._admitted_s - computed_s)

    def append(self, token_id: int, now_s: float, logprobs: TokenLogprobs | None) -> TokenEvent:
        """Take a sampled id; the event says whether it was the last. Timings are on the first event only."""
        wait_ms = prefill_ms = stall_ms = 0.0
        num_cached = 0
        if not self._has_started and self._admitted_s is not None:
            wait_ms = (self._admitted_s - self._arrived_s) * 1e3
            stall_ms = self._stalled_s * 1e3
            prefill_ms = (now_s - self._admitted_s) * 1e3 - stall_ms
            num_cached = self._num_cached
        self._has_started = True
        self._token_ids.append(token_id)
        self._observe(token_id)
        request, finish = self.request, self._finish(token_id)
        return TokenEvent(
            request.request_id,
            token_id,
            request.choice,
            finish,
            wait_ms,
            prefill_ms,
            num_cached,
            logprobs,
            stall_ms,
        )

    def _observe(self, token_id: int) -> None:
        if self._penalties is not None:
            self._penalties.observe(token_id)
        if self._grammar is not None:
            self._grammar.observe(token_id)

    def _finish(self, token_id: int) -> FinishReason | None:
        if token_id in self._stop_token_ids:
            return "stop"
        num_generated = len(self._token_ids) - len(self.request.prompt_ids)
        return "length" if num_generated >= self.request.max_tokens else None
