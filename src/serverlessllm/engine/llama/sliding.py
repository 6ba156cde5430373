# SPDX-License-Identifier: Apache-2.0
"""A batch as layers with a sliding window see it: the same rows, with what lies too far back masked. Pure.

An id attends to the last `window_tokens` ids, itself included. Runs that are shorter are left as they are.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from serverlessllm.engine.llama.batch import DecodeRun, ForwardBatch, PromptRun


def narrowed(batch: ForwardBatch, window_tokens: int, dtype: torch.dtype) -> ForwardBatch:
    """`batch` with masks for a window; itself where no row reaches beyond one."""
    if batch.positions_end <= window_tokens:
        return batch
    positions = batch.cached_positions
    return replace(
        batch,
        decode_runs=tuple(
            _decode(run, positions[run.start : run.end], window_tokens, dtype) for run in batch.decode_runs
        ),
        prompt_runs=tuple(
            _prompt(run, positions[run.start : run.end], window_tokens, dtype) for run in batch.prompt_runs
        ),
    )


def _decode(run: DecodeRun, positions: torch.Tensor, window_tokens: int, dtype: torch.dtype) -> DecodeRun:
    if run.window_tokens <= window_tokens:
        return run
    mask = _mask(positions, run.window_tokens, window_tokens, dtype)
    return replace(run, mask=mask.view(len(positions), 1, 1, run.window_tokens))


def _prompt(run: PromptRun, positions: torch.Tensor, window_tokens: int, dtype: torch.dtype) -> PromptRun:
    if run.window_tokens <= window_tokens:
        return run
    return replace(run, mask=_mask(positions, run.window_tokens, window_tokens, dtype))


def _mask(positions: torch.Tensor, num_keys: int, window_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """(rows, num_keys): 0 where a row sees a key, -inf where not."""
    distance = positions.unsqueeze(1) - torch.arange(num_keys, device=positions.device)
    hidden = (distance < 0) | (distance >= window_tokens)
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, float("-inf"))
