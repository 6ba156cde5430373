# SPDX-License-Identifier: Apache-2.0
"""Attention of queries over keys, with the scale and the cap of a family's scores. Knows no cache and no batch.

torch's kernel knows no cap, so capped scores are computed step by step, in the order of `transformers`.
Source: Gemma 2 technical report, 2024, section 2 (logit soft-capping).
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from serverlessllm.engine.llama.traits import Traits


def attention(
    traits: Traits,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """As `scaled_dot_product_attention`; `is_causal` only without `mask`."""
    if traits.score_cap:
        return _capped(traits, queries, keys, values, mask, is_causal=is_causal)
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        is_causal=is_causal,
        scale=traits.query_scale,
        enable_gqa=enable_gqa,
    )


def _capped(
    traits: Traits,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool,
) -> torch.Tensor:
    group = queries.shape[1] // keys.shape[1]
    if group > 1:
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scale = queries.shape[-1] ** -0.5 if traits.query_scale is None else traits.query_scale
    scores = torch.matmul(queries, keys.transpose(-2, -1)) * scale
    scores = torch.tanh(scores / traits.score_cap) * traits.score_cap
    if is_causal:
        mask = torch.full_like(scores[0, 0], float("-inf")).triu_(1)
    if mask is not None:
        scores = scores + mask
    return torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype), values)
