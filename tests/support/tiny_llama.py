# SPDX-License-Identifier: Apache-2.0
"""Random tiny models of each family: the reference from `transformers`, and our engine over the same weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.block_store import block_bytes
from serverlessllm.engine.llama.config import LlamaConfig as LlamaFacts
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.wire.worker import Generate, SamplingParams, TokenEvent
from support.llama_region import pack_region

CONFIG_CLASSES = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3TextConfig,
}
TINY = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True)
class TinyModel:
    """`reference` is transformers' float32 model; `weights` are the same numbers for our engine."""

    reference: Any
    weights: Weights

    def reference_logits(self, ids: list[int]) -> torch.Tensor:
        """(len(ids), vocab_size) float32, computed afresh."""
        with torch.inference_mode():
            logits: torch.Tensor = self.reference(torch.tensor([ids])).logits[0]
        return logits


def build_tiny(
    family: str, changes: Mapping[str, object] | None = None, *, seed: int = 0, bare: bool = False
) -> TinyModel:
    """A random model of `family`; `changes` override keys of its config. `bare`: saved without its head."""
    torch.manual_seed(seed)
    config = CONFIG_CLASSES[family](**{**TINY, **(changes or {})})
    reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return TinyModel(reference, reference_weights(reference.model if bare else reference))


def reference_weights(reference: Any, dtype: torch.dtype = torch.float32) -> Weights:
    """The region of a transformers model, in `dtype`."""
    tensors = {name: tensor.to(dtype) for name, tensor in reference.state_dict().items()}
    aliases = {}
    if reference.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
        aliases["lm_head.weight"] = "model.embed_tokens.weight"
    architecture = copy.deepcopy(reference.config.to_dict())
    architecture["architectures"] = [type(reference).__name__]
    return pack_region(architecture, tensors, aliases)


def attached_engine(
    weights: Weights, *, max_num_seqs: int = 8, max_model_len_tokens: int = 0, num_blocks: int = 0
) -> LlamaEngine:
    """A float32 engine bound to `weights`; `num_blocks` 0 lets it choose."""
    config = LlamaFacts.parse(weights.layout.architecture)
    kv_cache_bytes = num_blocks * block_bytes(config, torch.float32)
    engine = create("float32", 2)
    engine.attach_weights(weights, EngineLimits(max_num_seqs, max_model_len_tokens, kv_cache_bytes), {})
    return engine


def request(
    request_id: str,
    prompt_ids: list[int],
    max_tokens: int,
    sampling: SamplingParams = GREEDY,
    *,
    stop_token_ids: tuple[int, ...] = (),
    generated_ids: tuple[int, ...] = (),
    choice: int = 0,
    cache_salt: str = "",
    logprobs: int = -1,
) -> Generate:
    """A `Generate` with the fields that tests vary."""
    return Generate(
        request_id,
        prompt_ids,
        max_tokens,
        sampling,
        list(stop_token_ids),
        choice,
        list(generated_ids),
        cache_salt,
        logprobs,
    )


def run_all(engine: LlamaEngine) -> dict[str, list[TokenEvent]]:
    """Step until nothing is left; the events by request id."""
    events: dict[str, list[TokenEvent]] = {}
    while engine.has_work:
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
    return events


def generate_ids(engine: LlamaEngine, *requests: Generate) -> dict[str, list[int]]:
    """Add all, run to the end, and return the ids by request id."""
    for item in requests:
        engine.add(item)
    return {name: [event.token_id for event in found] for name, found in run_all(engine).items()}
