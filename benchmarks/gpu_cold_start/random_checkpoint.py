# SPDX-License-Identifier: Apache-2.0
"""A Llama-shaped checkpoint of random weights, as a Hugging Face directory: real sizes without a download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
END_ID = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama; `seven_b` are those of Llama 2 7B, with a context as long as is measured."""

    hidden: int
    ffn: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab: int = 32_000
    context: int = 4096


SEVEN_B = Shape(hidden=4096, ffn=11_008, num_layers=32, num_heads=32, num_kv_heads=32)
SMALL = Shape(hidden=512, ffn=1408, num_layers=6, num_heads=8, num_kv_heads=4, context=1024)


def write_checkpoint(directory: Path, shape: Shape, device: str, *, seed: int = 0) -> int:
    """Write config, tokenizer and bf16 weights, one file per four blocks; returns the weights' bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_config(shape)))
    _write_tokenizer(directory, shape.vocab)
    torch.manual_seed(seed)
    total = 0
    weight_map: dict[str, str] = {}
    names = _shapes(shape)
    per_file = 4 * 9
    for number, start in enumerate(range(0, len(names), per_file)):
        file = f"model-{number:05}.safetensors"
        part = {
            name: _random(name, size, device) for name, size in list(names.items())[start : start + per_file]
        }
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
        total += sum(tensor.nbytes for tensor in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _random(name: str, size: tuple[int, ...], device: str) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.randn(size, dtype=torch.bfloat16, device=device).mul_(0.02).cpu()


def _shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    head_dim = shape.hidden // shape.num_heads
    kv = shape.num_kv_heads * head_dim
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        names |= {
            f"{prefix}self_attn.q_proj.weight": (shape.hidden, shape.hidden),
            f"{prefix}self_attn.k_proj.weight": (kv, shape.hidden),
            f"{prefix}self_attn.v_proj.weight": (kv, shape.hidden),
            f"{prefix}self_attn.o_proj.weight": (shape.hidden, shape.hidden),
            f"{prefix}mlp.gate_proj.weight": (shape.ffn, shape.hidden),
            f"{prefix}mlp.up_proj.weight": (shape.ffn, shape.hidden),
            f"{prefix}mlp.down_proj.weight": (shape.hidden, shape.ffn),
            f"{prefix}input_layernorm.weight": (shape.hidden,),
            f"{prefix}post_attention_layernorm.weight": (shape.hidden,),
        }
    return names | {
        "model.norm.weight": (shape.hidden,),
        "lm_head.weight": (shape.vocab, shape.hidden),
    }


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "dtype": "bfloat16",
    }


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Bytes, and tokens that no text has: random weights answer with any id, and every id must have a text."""
    tokens = ["<end>", *sorted(ByteLevel.alphabet())]
    tokens += [f"<{number}>" for number in range(vocab_size - len(tokens))]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "eos_token": "<end>",
        "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
