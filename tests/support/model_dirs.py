# SPDX-License-Identifier: Apache-2.0
"""Checkpoints for tests, as a user would have them on disk: a simulated model, a tiny seeded Llama."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from support.tiny_tokenizer import tiny_tokenizer_files

VOCAB_SIZE = 1024


def _write_files(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_tokenizer_files().items():
        (directory / name).write_bytes(data)
    (directory / "config.json").write_text(json.dumps(config))


def write_simulated(directory: Path, *, nbytes: int = 4096, variant: int = 0) -> Path:
    """A model for the `simulated` engine: `nbytes` of weights that only the loader touches."""
    config = {"model_type": "simulated", "vocab_size": VOCAB_SIZE, "max_position_embeddings": 8192}
    _write_files(directory, {**config, "variant": variant})
    half = max(1, nbytes // 2)
    filled = {
        "model.embed_tokens.weight": np.full((half,), variant % 251, np.uint8),
        "model.layers.0.w.weight": np.full((half,), (variant + 1) % 251, np.uint8),
    }
    save_file(filled, directory / "model.safetensors")
    return directory


def write_random(directory: Path, *, nbytes: int, seed: int = 0, num_tensors: int = 8) -> Path:
    """A model for the `simulated` engine whose bytes are nowhere alike: what is misplaced or missing shows."""
    config = {"model_type": "simulated", "vocab_size": VOCAB_SIZE, "max_position_embeddings": 8192}
    _write_files(directory, {**config, "variant": seed})
    rng = np.random.default_rng(seed)
    each = nbytes // num_tensors
    filled = {
        f"model.layers.{n}.w.weight": np.frombuffer(rng.bytes(each), np.uint8) for n in range(num_tensors)
    }
    save_file(filled, directory / "model.safetensors")
    return directory


def tiny_llama_config(**changes: Any) -> dict[str, Any]:
    """`config.json` of a Llama that decodes a token in about a millisecond."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }
    return {**config, **changes}


def write_tiny_llama(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A float32 Llama with seeded random weights, saved as safetensors."""
    config = tiny_llama_config(**changes)
    _write_files(directory, config)
    rng = np.random.default_rng(seed)
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}."
        shapes |= {
            f"{at}input_layernorm.weight": (hidden,),
            f"{at}post_attention_layernorm.weight": (hidden,),
            f"{at}self_attn.q_proj.weight": (queries, hidden),
            f"{at}self_attn.k_proj.weight": (keys, hidden),
            f"{at}self_attn.v_proj.weight": (keys, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, queries),
            f"{at}mlp.gate_proj.weight": (inner, hidden),
            f"{at}mlp.up_proj.weight": (inner, hidden),
            f"{at}mlp.down_proj.weight": (hidden, inner),
        }
    tensors = {
        name: np.ones(shape, np.float32)
        if name.endswith("norm.weight")
        else (rng.standard_normal(shape) * 0.3).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def write_reciting_llama(directory: Path, text: str, **changes: Any) -> Path:
    """A Llama that answers every chat with `text`, again and again: each token's likeliest successor is the next one.

    So its answers are spelled as the tokenizer would spell them, as those of trained models are. `text` must not
    hold a token twice.
    """
    write_tiny_llama(directory, tie_word_embeddings=False, **changes)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(set(ids)) < len(ids):
        raise ValueError(f"{text!r} holds a token twice")
    begin = tokenizer.encode("\n", add_special_tokens=False).ids[-1]
    tensors = load_file(directory / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    head = np.zeros_like(embeddings)
    for token_id, successor in zip([begin, *ids], [*ids, ids[0]], strict=True):
        head[successor] += embeddings[token_id]
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor *= 0.01
    save_file({**tensors, "lm_head.weight": head}, directory / "model.safetensors")
    return directory
