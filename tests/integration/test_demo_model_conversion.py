# SPDX-License-Identifier: Apache-2.0
"""The real demo model, converted: every value equals `gguf`'s, every text encodes as llama.cpp encodes it.

`golden_smollm2_tokens.json` holds (text, ids) pairs that llama.cpp (xllamacpp) gave for the same GGUF file.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.gguf_reader import GGUFReader
from tokenizers import Tokenizer

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.ingest.convert import convert
from serverlessllm.ingest.formats.gguf import GgufSource

MODEL = Path(__file__).parents[2] / ".demo/model/SmolLM2-135M-Instruct.Q4_1.gguf"
HEADS = {"q": 9, "k": 3}

pytestmark = [
    pytest.mark.demo_model,
    pytest.mark.skipif(not MODEL.is_file(), reason="run `make demo-model` first"),
]


def _permuted(rows: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """llama.cpp's order of q and k rows."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def test_every_value_equals_the_dequantised_file(tmp_path: Path) -> None:
    report = convert(MODEL, tmp_path, dtype="float32")
    artifact = Artifact.open(Path(report.directory))
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in GGUFReader(MODEL).tensors}
    names = GgufSource(MODEL).names
    assert len(names) == len(stored) == report.num_tensors
    for ours, theirs in names.items():
        found = np.frombuffer(artifact.tensor(ours), np.float32).reshape(stored[theirs].shape)
        part = ours.split("self_attn.")[-1][0]
        is_permuted = ours.endswith(("q_proj.weight", "k_proj.weight"))
        found = _permuted(found, HEADS[part]) if is_permuted else found
        np.testing.assert_array_equal(found, stored[theirs], err_msg=ours)


def test_tokenizer_encodes_like_llama_cpp_and_decodes_back() -> None:
    tokenizer = Tokenizer.from_str(GgufSource(MODEL).files()["tokenizer.json"].decode())
    golden = json.loads((Path(__file__).parent / "golden_smollm2_tokens.json").read_text())
    assert len(golden) >= 40
    for text, ids in golden:
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_config_says_what_the_model_is() -> None:
    config = GgufSource(MODEL).config()
    expected = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000.0,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    assert {key: config[key] for key in expected} == expected
