# SPDX-License-Identifier: Apache-2.0
"""GGUF as a checkpoint: names, values equal to `gguf`'s, row order, config, default dtype."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.gguf_reader import GGUFReader

from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.ingest.formats.gguf import GgufSource
from serverlessllm.ingest.formats.gguf_header import parse_gguf
from support.tiny_checkpoints import write_tiny_gguf


def _read(source: GgufSource, name: str) -> npt.NDArray[np.float32]:
    tensor = next(tensor for tensor in source.tensors() if tensor.name == name)
    data = bytearray(tensor.nbytes)
    source.read_into(name, memoryview(data))
    return np.frombuffer(data, np.float32).reshape(tensor.shape)


def _oracle(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def test_header_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    ours, theirs = parse_gguf(path), GGUFReader(path)
    assert {t.name: (t.offset, t.nbytes, t.shape[::-1]) for t in ours.tensors.values()} == {
        t.name: (t.data_offset, t.n_bytes, tuple(t.shape.tolist())) for t in theirs.tensors
    }
    keys = {key: f.contents() for key, f in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == keys


def test_values_equal_dequantised_and_names_are_hugging_face(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    source, oracle = GgufSource(path), _oracle(path)
    assert source.default_dtype == "bf16"
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_array_equal(_read(source, ours), oracle[theirs])


@pytest.mark.parametrize(("name", "num_heads"), [("q", 2), ("k", 1)])
def test_llama_rows_get_their_order_back(tmp_path: Path, name: str, num_heads: int) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    stored = _oracle(path)[f"blk.0.attn_{name}.weight"]
    found = _read(GgufSource(path), f"model.layers.0.self_attn.{name}_proj.weight")
    # llama.cpp's own permutation of what we give must be what is stored.
    rows, columns = found.shape
    permuted = found.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2)
    np.testing.assert_array_equal(permuted.reshape(rows, columns), stored)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_qwen_rows_are_taken_as_stored(tmp_path: Path, architecture: str) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", architecture=architecture)
    source = GgufSource(path)
    found = _read(source, "model.layers.0.self_attn.q_proj.weight")
    np.testing.assert_array_equal(found, _oracle(path)["blk.0.attn_q.weight"])
    assert source.config()["model_type"] == architecture


def test_float_file_keeps_its_float_type(tmp_path: Path) -> None:
    assert GgufSource(write_tiny_gguf(tmp_path / "m.gguf", quantised=False)).default_dtype == "f32"


def test_config_is_rebuilt_with_round_numbers(tmp_path: Path) -> None:
    config = GgufSource(write_tiny_gguf(tmp_path / "m.gguf")).config()
    assert config["rms_norm_eps"] == 1e-05
    assert config["rope_theta"] == 10000.0
    assert config["architectures"] == ["LlamaForCausalLM"]
    sizes = ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "intermediate_size")
    assert [config[key] for key in sizes] == [2, 1, 32, 259, 96]
    assert config["tie_word_embeddings"] is True


def test_other_architectures_are_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpointError, match="llama, qwen2, qwen3") as caught:
        GgufSource(write_tiny_gguf(tmp_path / "m.gguf", architecture="bert"))
    assert caught.value.param == "general.architecture"
