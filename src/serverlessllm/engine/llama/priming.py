# SPDX-License-Identifier: Apache-2.0
"""What a process pays once and a first request should not: thread pool, kernel libraries, allocator, numpy, CUDA.

Runs a small random model of no family through prompt and decode, as any real model would be run. A CPU's matrix
kernels for a real model's shapes are generated on its first pass (~1 ms per shape): they cannot be known here. A
GPU's are chosen by size, so there the small models have the widths of large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from serverlessllm.engine.llama.batch import DecodeRow, Prompt, build_batch
from serverlessllm.engine.llama.config import LlamaConfig, RopeConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.kv_memory import CPU
from serverlessllm.engine.llama.matrices import Matrix, Stack
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
_GPU_CONFIGS = (
    replace(_CONFIG, hidden_size=4096, intermediate_size=11008, num_heads=32, num_kv_heads=32, head_dim=128),
    replace(_CONFIG, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128),
)
_PROMPT_TOKENS = 40
_GPU_PROMPT_TOKENS = (1, 8, 16, 32, 64, 128, 256)
"""A GPU's libraries choose among kernels by the number of rows, and load each one when it is first needed."""


@torch.inference_mode()
def prime_kernels(dtype: torch.dtype, device: torch.device = CPU) -> None:
    """Idempotent; starts the thread pool, and CUDA: never call it in a process that forks afterwards."""
    if device.type == "cpu":
        _run(_CONFIG, dtype, device, [_PROMPT_TOKENS])
        return
    for config in _GPU_CONFIGS:
        _run(config, dtype, device, _GPU_PROMPT_TOKENS)


def _run(config: LlamaConfig, dtype: torch.dtype, device: torch.device, lengths: Sequence[int]) -> None:
    """Prompts of these lengths, alone and in pairs, then decoding two sequences and one."""
    cache = KvCache(config, 2, config.max_position_tokens, dtype, device)
    rope = RopeTable(config.rope, config.head_dim, config.max_position_tokens, dtype, device)
    model = LlamaModel(config, _random_weights(config, dtype, device), cache, rope)
    sampler = Sampler(config.vocab_size)
    params = SamplingParams(top_p=0.9, repetition_penalty=1.1)
    prompts = [list(range(length)) for length in lengths]
    draw = Draw(params, 0, _PROMPT_TOKENS, Penalties(params, prompts[-1], []))
    greedy = Draw(SamplingParams(temperature=0.0), 0, _PROMPT_TOKENS)
    batches = [
        *(build_batch([], [Prompt(0, prompt)], dtype) for prompt in prompts[:-1]),
        build_batch([], [Prompt(0, prompts[-1]), Prompt(1, prompts[-1])], dtype),
        build_batch([DecodeRow(0, 1, 40), DecodeRow(1, 1, 41)], [], dtype),
        build_batch([DecodeRow(0, 1, 41)], [], dtype),
    ]
    for batch in batches:
        logits = model.forward(batch.to(device)).float().cpu().numpy()
        sampler.sample(logits, [draw, greedy][: len(logits)])


def _random_weights(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> LlamaWeights:
    hidden, ffn = config.hidden_size, config.intermediate_size
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim

    def full(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.01, dtype=dtype, device=device)

    norm = RmsNorm.of(full(hidden), config.rms_norm_eps)
    layer = LayerWeights(
        attention_norm=norm,
        qkv=Stack((full(heads, hidden),)),
        qk_norm=None,
        o=Matrix(full(hidden, config.num_heads * config.head_dim).t()),
        mlp_norm=norm,
        gate_up=Stack((full(2 * ffn, hidden),)),
        down=Matrix(full(hidden, ffn).t()),
    )
    embedding = full(config.vocab_size, hidden)
    return LlamaWeights(embedding, (layer,) * config.num_layers, norm, Stack((embedding,)))
