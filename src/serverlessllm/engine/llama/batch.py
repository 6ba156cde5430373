# SPDX-License-Identifier: Apache-2.0
"""One forward pass as tensors: decoded sequences and prompts side by side. Knows no weights, no requests.

Rows are tokens. First come the sequences that decode, one row each in slot order; then the pieces of prompts, one
after the other; then padding. So every matrix of the model is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

_WINDOW_TOKENS: Final = 64
"""Runs of decoded sequences attend over a multiple of this, so that masks change shape rarely."""
_EXACT_ROWS: Final = 64
_FINE_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """A running sequence: its newest id, which has `position`, is fed."""

    slot: int
    token_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids of a sequence whose first `start` ids are in its slot already.

    `is_whole`: nothing comes after them, the last row's logits are wanted.
    """

    slot: int
    token_ids: Sequence[int]
    start: int = 0
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """Rows `start:end`, whose slots are `slot, slot+1, …`: their keys are one view.

    `mask` (num_rows, 1, 1, window_tokens) is added to the scores; None where every row sees the whole window.
    """

    start: int
    end: int
    slot: int
    window_tokens: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PromptRun:
    """Rows `start:end` are ids of one prompt, in order; each sees those before it.

    Without `mask` they are its first ones and attend to one another. Else they attend over the first `window_tokens`
    of their slot, and `mask` (end - start, window_tokens) is added to the scores.
    """

    start: int
    end: int
    slot: int
    window_tokens: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """`token_ids`, `positions` (num_padded_rows,), `slots`, `cached_positions` (num_rows,): int64.

    `positions_end` is above every position. `last_rows` are the rows whose logits are wanted, in order:
    decoded sequences, then whole prompts; None when they are all the rows.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    cached_positions: torch.Tensor
    positions_end: int
    num_rows: int
    decode_runs: tuple[DecodeRun, ...]
    prompt_runs: tuple[PromptRun, ...]
    last_rows: torch.Tensor | None

    def to(self, device: torch.device) -> ForwardBatch:
        """The same on a device; itself on the CPU. Laid out on the CPU and moved: a handful of small copies."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            slots=self.slots.to(device),
            cached_positions=self.cached_positions.to(device),
            decode_runs=tuple(replace(run, mask=_moved(run.mask, device)) for run in self.decode_runs),
            prompt_runs=tuple(replace(run, mask=_moved(run.mask, device)) for run in self.prompt_runs),
            last_rows=_moved(self.last_rows, device),
        )


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


def padded_rows(num_rows: int) -> int:
    """Rows to compute with. A matrix kernel is generated per number of rows (~1 ms each), so large batches are
    rounded up; small ones, where a padded row costs most, are not."""
    if num_rows <= _EXACT_ROWS:
        return num_rows
    grain = 8 if num_rows <= _FINE_ROWS else 32
    return -(-num_rows // grain) * grain


def build_batch(decodes: Sequence[DecodeRow], prompts: Sequence[Prompt], dtype: torch.dtype) -> ForwardBatch:
    """Lay the rows out. `decodes` must be sorted by slot; at least one of both is not empty."""
    token_ids = [row.token_id for row in decodes]
    positions = [row.position for row in decodes]
    slots = [row.slot for row in decodes]
    last_rows = list(range(len(decodes)))
    prompt_runs = []
    for prompt in prompts:
        start, length = len(token_ids), len(prompt.token_ids)
        token_ids += prompt.token_ids
        positions += range(prompt.start, prompt.start + length)
        slots += [prompt.slot] * length
        if prompt.is_whole:
            last_rows.append(start + length - 1)
        prompt_runs.append(_prompt_run(prompt, start, dtype))
    num_rows = len(token_ids)
    padding = [0] * (padded_rows(num_rows) - num_rows)
    padded_positions = torch.tensor(positions + padding)
    return ForwardBatch(
        token_ids=torch.tensor(token_ids + padding),
        positions=padded_positions,
        slots=torch.tensor(slots),
        cached_positions=padded_positions[:num_rows],
        positions_end=max(positions) + 1,
        num_rows=num_rows,
        decode_runs=tuple(_decode_runs(decodes, dtype)),
        prompt_runs=tuple(prompt_runs),
        last_rows=torch.tensor(last_rows, dtype=torch.int64) if prompts else None,
    )


def _prompt_run(prompt: Prompt, start: int, dtype: torch.dtype) -> PromptRun:
    length = len(prompt.token_ids)
    window = prompt.start + length
    mask = None
    if prompt.start:
        mask = torch.full((length, window), float("-inf"), dtype=dtype).triu_(prompt.start + 1)
    return PromptRun(start, start + length, prompt.slot, window, mask)


def _decode_runs(decodes: Sequence[DecodeRow], dtype: torch.dtype) -> list[DecodeRun]:
    runs = []
    start = 0
    for end in range(1, len(decodes) + 1):
        if end == len(decodes) or decodes[end].slot != decodes[end - 1].slot + 1:
            runs.append(_decode_run(decodes[start:end], start, dtype))
            start = end
    return runs


def _decode_run(rows: Sequence[DecodeRow], start: int, dtype: torch.dtype) -> DecodeRun:
    lengths = [row.position + 1 for row in rows]
    window = max(lengths)
    mask = None
    if min(lengths) < window:
        window = -(-window // _WINDOW_TOKENS) * _WINDOW_TOKENS
        hidden = torch.arange(window) >= torch.tensor(lengths).unsqueeze(1)
        mask = torch.zeros(len(rows), 1, 1, window, dtype=dtype)
        mask.masked_fill_(hidden.view(len(rows), 1, 1, window), float("-inf"))
    return DecodeRun(start, start + len(rows), rows[0].slot, window, mask)
