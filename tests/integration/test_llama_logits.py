# SPDX-License-Identifier: Apache-2.0
"""Float32 logits of every family equal those of `transformers` within 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.base import Weights
from serverlessllm.engine.llama.batch import DecodeRow, Prompt, build_batch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.weights import read_weights
from serverlessllm.ingest.convert import convert
from support.tiny_llama import TinyModel, build_tiny

DEMO_MODEL = Path(__file__).parents[2] / ".demo/model/SmolLM2-135M-Instruct.Q4_1.gguf"
TOLERANCE = 1e-4
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {"sliding_window": 40, "query_pre_attn_scalar": 12, "tie_word_embeddings": True}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
VARIANTS = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("llama", {"tie_word_embeddings": True}, id="llama-tied"),
    pytest.param("llama", {"rope_parameters": LLAMA3_ROPE}, id="llama-llama3-rope"),
    pytest.param(
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}},
        id="llama-linear",
    ),
    pytest.param("llama", {"num_key_value_heads": 6}, id="llama-mha"),
    pytest.param("llama", {"num_key_value_heads": 1}, id="llama-mqa"),
    pytest.param("llama", {"head_dim": 16, "num_key_value_heads": 3}, id="llama-wide-heads"),
    pytest.param("qwen2", {}, id="qwen2"),
    pytest.param("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 3}, id="qwen2-tied"),
    pytest.param("qwen3", {}, id="qwen3"),
    pytest.param("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 6}, id="qwen3-tied"),
    pytest.param("mistral", {"sliding_window": None}, id="mistral"),
    pytest.param("mistral", {"sliding_window": 40}, id="mistral-window"),
    pytest.param("gemma2", GEMMA, id="gemma2"),
    pytest.param(
        "gemma2", {**GEMMA, "num_key_value_heads": 6, "attn_logit_softcapping": None}, id="gemma2-mha"
    ),
    pytest.param("gemma3_text", {**GEMMA, "sliding_window_pattern": 2}, id="gemma3"),
    pytest.param("gemma3_text", {**GEMMA, "rope_parameters": GEMMA3_ROPE}, id="gemma3-linear"),
]


def bind(weights: Weights, num_slots: int, max_len_tokens: int) -> LlamaModel:
    config = LlamaConfig.parse(weights.layout.architecture)
    cache = KvCache(config, num_slots, max_len_tokens, torch.float32)
    rope = RopeTable(config.rope, config.head_dim, max_len_tokens, torch.float32)
    return LlamaModel(config, read_weights(config, RegionTensors(weights, torch.float32)), cache, rope)


def random_ids(tiny: TinyModel, length: int) -> list[int]:
    ids: list[int] = torch.randint(tiny.reference.config.vocab_size, (length,)).tolist()
    return ids


@torch.inference_mode()
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_prompt_logits_equal_transformers(family: str, changes: dict[str, object]) -> None:
    tiny = build_tiny(family, changes)
    model = bind(tiny.weights, 3, 256)
    prompts = [random_ids(tiny, length) for length in (150, 1, 37)]
    batch = build_batch([], [Prompt(slot, ids) for slot, ids in enumerate(prompts)], torch.float32)
    logits = model.forward(batch)
    expected = torch.stack([tiny.reference_logits(ids)[-1] for ids in prompts])
    assert (logits - expected).abs().max() < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_decode_logits_beside_a_prompt_equal_transformers(family: str, changes: dict[str, object]) -> None:
    tiny = build_tiny(family, changes)
    model = bind(tiny.weights, 5, 256)
    ids = {slot: random_ids(tiny, length) for slot, length in ((0, 90), (1, 5), (3, 70), (4, 20))}
    running = [slot for slot in ids if slot != 4]
    model.forward(build_batch([], [Prompt(slot, ids[slot][:-1]) for slot in running], torch.float32))
    decodes = [DecodeRow(slot, ids[slot][-1], len(ids[slot]) - 1) for slot in running]
    logits = model.forward(build_batch(decodes, [Prompt(4, ids[4])], torch.float32))
    expected = torch.stack([tiny.reference_logits(sequence)[-1] for sequence in ids.values()])
    assert (logits - expected).abs().max() < TOLERANCE


@pytest.mark.demo_model
@pytest.mark.skipif(not DEMO_MODEL.is_file(), reason="run `make demo-model` first")
@torch.inference_mode()
def test_demo_model_logits_equal_transformers(tmp_path: Path) -> None:
    report = convert(DEMO_MODEL, tmp_path, dtype="float32")
    artifact = Artifact.open(Path(report.directory))
    weights = Weights(artifact.weights("model.bin"), artifact.layout())
    config = AutoConfig.for_model(**artifact.config())
    reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    names = [entry.name for entry in artifact.index.tensors]
    shapes = {name: parameter.shape for name, parameter in reference.named_parameters()}
    tensors = {
        name: torch.frombuffer(bytearray(artifact.tensor(name)), dtype=torch.float32) for name in names
    }
    reference.load_state_dict(
        {name: tensor.view(shapes[name]) for name, tensor in tensors.items()}, strict=False
    )
    prompts = [torch.randint(config.vocab_size, (length,)).tolist() for length in (37, 200)]
    batch = build_batch([], [Prompt(slot, ids) for slot, ids in enumerate(prompts)], torch.float32)
    logits = bind(weights, 2, 256).forward(batch)
    expected = torch.stack([reference(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    assert (logits - expected).abs().max() < TOLERANCE
