# SPDX-License-Identifier: Apache-2.0
"""Conversion as a user sees it: equal bytes, one revision per content, tied heads, dtypes, progress."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.errors import CorruptDataError, InvalidRequestError, UnsupportedCheckpointError
from serverlessllm.ingest.convert import convert
from serverlessllm.ingest.formats.gguf import GgufSource
from serverlessllm.wire.ingest import Progress
from support.tiny_checkpoints import (
    tiny_tensors,
    write_hf_directory,
    write_tiny_artifact,
    write_tiny_gguf,
)

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def _convert(source: Path, out: Path, *, dtype: str | None = None) -> Artifact:
    report = convert(source, out, dtype=dtype)
    artifact = Artifact.open(Path(report.directory), expect_revision=report.revision)
    verify(artifact)
    return artifact


def test_safetensors_arrive_byte_for_byte(tmp_path: Path) -> None:
    artifact = _convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out")
    for name, array in tiny_tensors().items():
        assert bytes(artifact.tensor(name)) == array.tobytes()
    assert artifact.file("config.json") == (tmp_path / "hf" / "config.json").read_bytes()


def test_same_content_from_another_container_is_the_same_revision(tmp_path: Path) -> None:
    first = _convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out")
    state = {key: torch.from_numpy(value) for key, value in tiny_tensors().items()}
    (tmp_path / "pt").mkdir()
    torch.save(state, tmp_path / "pt" / "pytorch_model.bin")
    (tmp_path / "pt" / "config.json").write_bytes((tmp_path / "hf" / "config.json").read_bytes())
    assert _convert(tmp_path / "pt", tmp_path / "out").revision == first.revision


def test_artifact_as_source_gives_its_own_revision(tmp_path: Path) -> None:
    first = _convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out")
    assert _convert(first.directory, tmp_path / "elsewhere").revision == first.revision


def test_older_layout_is_arranged_anew_byte_for_byte(tmp_path: Path) -> None:
    old = write_tiny_artifact(tmp_path / "old", max_file_bytes=4200)
    new = _convert(old.directory, tmp_path / "new")
    assert [f.name for f in new.index.weight_files] == ["model.bin"]
    assert all(new.tensor(entry.name) == old.tensor(entry.name) for entry in old.index.tensors)
    assert new.index.aliases == old.index.aliases
    assert new.index.source_digest == old.index.source_digest


def test_damaged_artifact_is_not_given_new_digests(tmp_path: Path) -> None:
    old = write_tiny_artifact(tmp_path / "old")
    path = old.directory / "model.bin"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    with pytest.raises(CorruptDataError):
        convert(old.directory, tmp_path / "new")


@pytest.mark.parametrize(
    ("tie", "same", "is_alias"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_stored_head_is_dropped_only_when_tied_and_equal(
    tmp_path: Path, tie: bool, same: bool, is_alias: bool
) -> None:
    arrays = tiny_tensors()
    arrays[HEAD] = arrays[EMBED] if same else arrays[EMBED] + 1
    source = write_hf_directory(tmp_path / "hf", arrays, tie_word_embeddings=tie)
    index = _convert(source, tmp_path / "out").index
    assert (index.aliases == {HEAD: EMBED}) is is_alias
    assert (HEAD in {entry.name for entry in index.tensors}) is not is_alias


def test_missing_head_of_an_untied_model_is_not_invented(tmp_path: Path) -> None:
    source = write_hf_directory(tmp_path / "hf", tie_word_embeddings=False)
    assert _convert(source, tmp_path / "out").index.aliases == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_converts_floats_and_says_so_in_config(tmp_path: Path, dtype: str) -> None:
    arrays = {**tiny_tensors(), "model.ids": np.arange(3, dtype=np.int64)}
    artifact = _convert(write_hf_directory(tmp_path / "hf", arrays), tmp_path / "out", dtype=dtype)
    target = getattr(torch, dtype)
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        expected = tensor.to(target) if tensor.is_floating_point() else tensor
        assert bytes(artifact.tensor(name)) == expected.view(torch.uint8).numpy().tobytes()
    assert artifact.config()["torch_dtype"] == dtype


def test_quantised_gguf_is_rounded_once_to_bfloat16(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    artifact, source = _convert(path, tmp_path / "out"), GgufSource(path)
    for tensor in source.tensors():
        wide = bytearray(tensor.nbytes)
        source.read_into(tensor.name, memoryview(wide))
        expected = torch.frombuffer(wide, dtype=torch.float32).to(torch.bfloat16)
        assert bytes(artifact.tensor(tensor.name)) == expected.view(torch.uint8).numpy().tobytes()
    assert artifact.index.aliases == {HEAD: EMBED}
    assert {"tokenizer.json", "generation_config.json"} <= {entry.name for entry in artifact.index.files}


def test_architecture_digest_ignores_weights_and_sees_shapes(tmp_path: Path) -> None:
    arrays = tiny_tensors()
    base = _convert(write_hf_directory(tmp_path / "a", arrays), tmp_path / "out").index
    other = {name: array + 1 for name, array in arrays.items()}
    same = _convert(write_hf_directory(tmp_path / "b", other), tmp_path / "out").index
    wider = {**arrays, "model.norm.weight": np.ones(8, np.float32)}
    different = _convert(write_hf_directory(tmp_path / "c", wider), tmp_path / "out").index
    assert base.architecture_digest == same.architecture_digest != different.architecture_digest
    assert base.source_digest != same.source_digest


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[Progress] = []
    convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out", on_progress=seen.append)
    total = sum(array.nbytes for array in tiny_tensors().values())
    assert (seen[-1].done_bytes, seen[-1].total_bytes, seen[-1].eta_s) == (total, total, 0.0)


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_hf_directory(tmp_path / "hf", {"w": np.array([1e6], np.float32)})
    with pytest.raises(UnsupportedCheckpointError, match="beyond the range"):
        convert(source, tmp_path / "out", dtype="float16")
    assert list((tmp_path / "out").iterdir()) == []


def test_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="int4") as caught:
        convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out", dtype="int4")
    assert caught.value.param == "dtype"


def test_config_with_infinity_converts(tmp_path: Path) -> None:
    source = write_hf_directory(tmp_path / "hf", limit=float("inf"))
    assert json.loads(_convert(source, tmp_path / "out").file("config.json"))["limit"] == float("inf")


def test_output_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    with pytest.raises(InvalidRequestError, match="cannot write") as caught:
        convert(write_hf_directory(tmp_path / "hf"), tmp_path / "out")
    assert caught.value.param == "out_dir"
