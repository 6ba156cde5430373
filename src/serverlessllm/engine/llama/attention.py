# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention over the cache, for one layer of one batch. Knows no weights and no rotation.

A decoded sequence's query heads that share a key head are folded into the query length: keys are read once and
never repeated. Prompts attend within themselves, straight from the projected rows; later pieces of them attend over
the cache.
"""

from __future__ import annotations

import torch

from serverlessllm.engine.llama.batch import DecodeRun, ForwardBatch, PromptRun
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.scores import attention


def attend(
    config: LlamaConfig, cache: KvCache, layer: int, batch: ForwardBatch, heads: torch.Tensor
) -> torch.Tensor:
    """Attention of every row.

    `heads` (num_padded_rows, num_heads + 2 * num_kv_heads, head_dim): rotated q and k, then v; the keys and
    values of decoded rows are in `cache` already.
    Returns (num_padded_rows, num_heads * head_dim); padding rows hold zeros.
    """
    parts = [_decode(config, cache, layer, run, heads) for run in batch.decode_runs]
    parts += [_prompt(config, cache, layer, run, heads) for run in batch.prompt_runs]
    num_padding = heads.shape[0] - batch.num_rows
    if num_padding:
        parts.append(heads.new_zeros(num_padding, config.num_heads * config.head_dim))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode(
    config: LlamaConfig, cache: KvCache, layer: int, run: DecodeRun, heads: torch.Tensor
) -> torch.Tensor:
    num_rows = run.end - run.start
    queries = heads[run.start : run.end, : config.num_heads]
    folded = queries.view(num_rows, config.num_kv_heads, config.group_size, config.head_dim)
    slots = slice(run.slot, run.slot + num_rows)
    keys = cache.keys(layer)[slots, :, : run.window_tokens]
    values = cache.values(layer)[slots, :, : run.window_tokens]
    attended = attention(config.traits, folded, keys, values, run.mask)
    return attended.reshape(num_rows, config.num_heads * config.head_dim)


def _prompt(
    config: LlamaConfig, cache: KvCache, layer: int, run: PromptRun, heads: torch.Tensor
) -> torch.Tensor:
    rows = heads[run.start : run.end].transpose(0, 1).unsqueeze(0)
    end_of_keys = config.num_heads + config.num_kv_heads
    queries, keys, values = torch.tensor_split(rows, (config.num_heads, end_of_keys), dim=1)
    if run.mask is not None:
        window = slice(run.window_tokens)
        keys = cache.keys(layer)[run.slot : run.slot + 1, :, window]
        values = cache.values(layer)[run.slot : run.slot + 1, :, window]
    attended = attention(
        config.traits,
        queries,
        keys,
        values,
        run.mask,
        is_causal=run.mask is None,
        enable_gqa=config.group_size > 1,
    )
    return (
        attended.squeeze(0).transpose(0, 1).reshape(run.end - run.start, config.num_heads * config.head_dim)
    )
