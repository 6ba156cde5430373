# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that everybody loads: Llama-shaped, bf16, random bytes, in every form that a row needs.

Made once per size in the benchmark's work folder and found there again. Knows no loader and no timer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from safetensors.torch import load_file, save_file

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.ingest.convert import convert


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's dimensions."""

    num_layers: int
    hidden: int
    ffn: int
    vocabulary: int
    num_heads: int
    num_kv_heads: int

    @property
    def kv_width(self) -> int:
        return self.hidden // self.num_heads * self.num_kv_heads

    def config(self) -> dict[str, object]:
        """`config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of execution: nine a layer, three beside them."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.num_layers):
            head = f"model.layers.{layer}"
            yield f"{head}.input_layernorm.weight", (self.hidden,)
            yield f"{head}.self_attn.q_proj.weight", (self.hidden, self.hidden)
            yield f"{head}.self_attn.k_proj.weight", (self.kv_width, self.hidden)
            yield f"{head}.self_attn.v_proj.weight", (self.kv_width, self.hidden)
            yield f"{head}.self_attn.o_proj.weight", (self.hidden, self.hidden)
            yield f"{head}.post_attention_layernorm.weight", (self.hidden,)
            yield f"{head}.mlp.gate_proj.weight", (self.ffn, self.hidden)
            yield f"{head}.mlp.up_proj.weight", (self.ffn, self.hidden)
            yield f"{head}.mlp.down_proj.weight", (self.hidden, self.ffn)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)


DONE_NAME: Final = "done.json"
FULL: Final = Shape(num_layers=28, hidden=2048, ffn=5632, vocabulary=32000, num_heads=16, num_kv_heads=8)
"""255 tensors, 2.9 GB."""
SMALL: Final = Shape(num_layers=2, hidden=256, ffn=512, vocabulary=1000, num_heads=4, num_kv_heads=2)
"""What a process loads first, so that nothing is imported or started within a timer."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`nbytes` are those of the tensors; every form holds the same."""

    directory: Path
    nbytes: int
    num_tensors: int

    @classmethod
    def found(cls, directory: Path) -> Self:
        """The one that `make` made there."""
        return cls(directory, **json.loads((directory / DONE_NAME).read_text()))

    @property
    def hf_dir(self) -> Path:
        """`config.json` and `model.safetensors`."""
        return self.directory / "hf"

    @property
    def safetensors(self) -> Path:
        return self.hf_dir / "model.safetensors"

    @property
    def torch_file(self) -> Path:
        """The state dict by `torch.save`."""
        return self.directory / "pytorch_model.bin"

    @property
    def tensorizer_file(self) -> Path:
        """Made when tensorizer is installed."""
        return self.directory / "model.tensors"

    @property
    def artifact(self) -> Path:
        """Ours."""
        return next((self.directory / "artifacts").iterdir())

    @property
    def weights(self) -> Path:
        """The one file of the artifact that holds weights."""
        return self.artifact / Artifact.open(self.artifact).index.weight_files[0].name


def make(home: Path, shape: Shape) -> Checkpoint:
    """The checkpoint below `home`, made if it is not there; four times its size on disk."""
    directory = home / f"llama-{shape.num_layers}x{shape.hidden}"
    done = directory / DONE_NAME
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        made = Checkpoint(directory, *_write(directory, shape))
        done.write_text(json.dumps({"nbytes": made.nbytes, "num_tensors": made.num_tensors}))
    return Checkpoint.found(directory)


def _write(directory: Path, shape: Shape) -> tuple[int, int]:
    """All forms but tensorizer's; returns bytes and number of tensors."""
    hf_dir = directory / "hf"
    hf_dir.mkdir(parents=True)
    (hf_dir / "config.json").write_text(json.dumps(shape.config()))
    torch.manual_seed(0)
    tensors = {
        name: (torch.randn(size, dtype=torch.float32) * 0.02).to(torch.bfloat16)
        for name, size in shape.tensors()
    }
    save_file(tensors, hf_dir / "model.safetensors", metadata={"format": "pt"})
    torch.save(tensors, directory / "pytorch_model.bin")
    nbytes, num_tensors = sum(tensor.nbytes for tensor in tensors.values()), len(tensors)
    del tensors
    convert(hf_dir, directory / "artifacts")
    return nbytes, num_tensors


def make_tensorizer_file(checkpoint: Checkpoint) -> None:
    """Tensorizer's own format, if it is not there. Raises ImportError where tensorizer is not installed."""
    if checkpoint.tensorizer_file.exists():
        return
    from tensorizer import TensorSerializer

    aside = checkpoint.tensorizer_file.with_suffix(".aside")
    serializer = TensorSerializer(str(aside))
    serializer.write_state_dict(load_file(checkpoint.safetensors))
    serializer.close()
    aside.replace(checkpoint.tensorizer_file)
