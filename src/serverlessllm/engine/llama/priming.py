# SPDX-License-Identifier: Apache-2.0
"""What a process pays once and a first request should not: thread pool, kernel libraries, allocator, numpy.

Runs a tiny random model of no family through prompt and decode, as any real model would be run. Matrix kernels
for a real model's shapes are generated on its first pass (~1 ms per shape): they cannot be known here.
"""

from __future__ import annotations

import torch

from serverlessllm.engine.llama.batch import DecodeRow, Prompt, build_batch
from serverlessllm.engine.llama.config import LlamaConfig, RopeConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.engine.llama.norm import RmsNorm
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.sampling.penalties import Penalties
from serverlessllm.engine.llama.sampling.sampler import Draw, Sampler
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights
from serverlessllm.wire.worker import SamplingParams

_CONFIG = LlamaConfig(
    family="llama",
    vocab_size=32768,
    hidden_size=256,
    intermediate_size=768,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_position_tokens=512,
    rms_norm_eps=1e-5,
    tied_head=True,
    rope=RopeConfig("default", 10000.0),
)
_PROMPT_TOKENS = 40


@torch.inference_mode()
def prime_kernels(dtype: torch.dtype) -> None:
    """Idempotent; starts the thread pool, so never call it in a process that forks afterwards."""
    cache = KvCache(_CONFIG, 2, _CONFIG.max_position_tokens, dtype)
    rope = RopeTable(_CONFIG.rope, _CONFIG.head_dim, _CONFIG.max_position_tokens, dtype)
    model = LlamaModel(_CONFIG, _random_weights(dtype), cache, rope)
    sampler = Sampler(_CONFIG.vocab_size)
    params = SamplingParams(top_p=0.9, repetition_penalty=1.1)
    prompt = list(range(_PROMPT_TOKENS))
    draw = Draw(params, 0, _PROMPT_TOKENS, Penalties(params, prompt, []))
    greedy = Draw(SamplingParams(temperature=0.0), 0, _PROMPT_TOKENS)
    batches = (
        build_batch([], [Prompt(0, prompt), Prompt(1, prompt)], dtype),
        build_batch([DecodeRow(0, 1, 40), DecodeRow(1, 1, 41)], [], dtype),
        build_batch([DecodeRow(0, 1, 41)], [], dtype),
    )
    for batch in batches:
        logits = model.forward(batch).float().numpy()
        sampler.sample(logits, [draw, greedy][: len(logits)])


def _random_weights(dtype: torch.dtype) -> LlamaWeights:
    hidden, ffn = _CONFIG.hidden_size, _CONFIG.intermediate_size
    heads = (_CONFIG.num_heads + 2 * _CONFIG.num_kv_heads) * _CONFIG.head_dim
    norm = RmsNorm.of(torch.ones(hidden, dtype=dtype), _CONFIG.rms_norm_eps)
    layer = LayerWeights(
        attention_norm=norm,
        qkv=torch.full((heads, hidden), 0.01, dtype=dtype),
        qkv_bias=None,
        qk_norm=None,
        o_transposed=torch.full((hidden, _CONFIG.num_heads * _CONFIG.head_dim), 0.01, dtype=dtype).t(),
        mlp_norm=norm,
        gate_up=torch.full((2 * ffn, hidden), 0.01, dtype=dtype),
        down_transposed=torch.full((hidden, ffn), 0.01, dtype=dtype).t(),
    )
    embedding = torch.full((_CONFIG.vocab_size, hidden), 0.01, dtype=dtype)
    return LlamaWeights(embedding, (layer,) * _CONFIG.num_layers, norm, embedding)
