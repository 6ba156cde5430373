# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a few hundred bytes: as artifact, as safetensors, as GGUF. Values are fixed by name order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.writer import ArtifactWriter

CONFIG: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": 6}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (6, 4),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.k_proj.weight": (2, 4),
    "model.layers.0.self_attn.v_proj.weight": (2, 4),
    "model.layers.0.self_attn.q_proj.bias": (4,),
    "model.layers.0.self_attn.k_proj.bias": (2,),
    "model.layers.0.self_attn.v_proj.bias": (2,),
    "model.layers.0.mlp.gate_proj.weight": (3, 4),
    "model.layers.0.mlp.up_proj.weight": (3, 4),
    "model.norm.weight": (4,),
}


def tiny_tensors(dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[Any]]:
    """One array per name of `SHAPES`: counting up from 1, over all tensors."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 1
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        arrays[name] = np.arange(start, start + size).reshape(shape).astype(dtype)
        start += size
    return arrays


def write_tiny_artifact(parent: Path, *, max_file_bytes: int = 1 << 30) -> Artifact:
    """Publish the tiny float32 model, with a tied head, to `parent/<revision>`."""
    arrays = tiny_tensors()
    specs = [TensorSpec(name, "f32", array.shape) for name, array in arrays.items()]
    arrangement = arrange(specs, max_file_bytes=max_file_bytes)
    with ArtifactWriter(parent) as writer:
        writer.add_file("config.json", json.dumps(CONFIG).encode())
        writer.begin(arrangement, {"lm_head.weight": "model.embed_tokens.weight"})
        for entry in arrangement.tensors:
            writer.write(entry.name, arrays[entry.name].tobytes())
        return writer.publish(source_digest="1" * 64, architecture_digest="2" * 64)


def write_hf_directory(
    directory: Path, arrays: Mapping[str, npt.NDArray[Any]] | None = None, **config: Any
) -> Path:
    """A Hugging Face directory with one safetensors file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(dict(tiny_tensors() if arrays is None else arrays), directory / "model.safetensors")
    return directory


def write_tiny_gguf(
    path: Path, *, architecture: str = "llama", quantised: bool = True, **metadata: Any
) -> Path:
    """A one-block GGUF: hidden 64, 2 heads over 1, with a byte-level tokenizer. `metadata` overrides strings."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (
        ("block_count", 1),
        ("context_length", 128),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ):
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    _add_tokenizer(writer, metadata)
    rng = np.random.default_rng(7)
    for name, shape in _GGUF_SHAPES.items():
        values = rng.standard_normal(shape, np.float32)
        kind = (
            gguf.GGMLQuantizationType.Q8_0 if quantised and len(shape) == 2 else gguf.GGMLQuantizationType.F32
        )
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_GGUF_SHAPES = {
    "token_embd.weight": (259, 64),
    "blk.0.attn_norm.weight": (64,),
    "blk.0.attn_q.weight": (64, 64),
    "blk.0.attn_k.weight": (32, 64),
    "blk.0.attn_v.weight": (32, 64),
    "blk.0.attn_output.weight": (64, 64),
    "blk.0.ffn_norm.weight": (64,),
    "blk.0.ffn_gate.weight": (96, 64),
    "blk.0.ffn_up.weight": (96, 64),
    "blk.0.ffn_down.weight": (64, 96),
    "output_norm.weight": (64,),
}


def _add_tokenizer(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "\u0120he"]
    writer.add_string("tokenizer.ggml.model", metadata.get("model", "gpt2"))
    writer.add_string("tokenizer.ggml.pre", metadata.get("pre", "smollm"))
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3] + [1] * (len(tokens) - 1))
    writer.add_array("tokenizer.ggml.merges", metadata.get("merges", ["h e", "\u0120 he"]))
    writer.add_uint32("tokenizer.ggml.eos_token_id", 0)
    writer.add_string("tokenizer.chat_template", "{{ messages[0].content }}")


def write_slow_hf_directory(directory: Path, *, num_tensors: int = 64, tensor_bytes: int = 8 << 20) -> Path:
    """Zeros that take no room on disk here, but long enough to convert for a signal to come in between."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    header = {
        f"model.layers.{i}.w.weight": {
            "dtype": "U8",
            "shape": [tensor_bytes],
            "data_offsets": [i * tensor_bytes, (i + 1) * tensor_bytes],
        }
        for i in range(num_tensors)
    }
    raw = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + num_tensors * tensor_bytes)
    return directory
