# SPDX-License-Identifier: Apache-2.0
"""`sllm checkpoint` from a tiny Llama on disk to a verified artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serverlessllm.cli.exit_codes import FAILED, OK
from serverlessllm.cli.main import run
from support.model_dirs import write_tiny_llama


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkpoint")
    assert run(["checkpoint", "convert", str(write_tiny_llama(home / "source")), str(home / "out")]) == OK
    return next((home / "out").iterdir())


def test_convert_prints_the_directory_on_stdout(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(artifact.parent.parent / "source")
    assert run(["checkpoint", "convert", source, str(tmp_path), "--dtype", "bfloat16"]) == OK
    out, err = capsys.readouterr()
    assert Path(out.strip()).parent == tmp_path
    assert "tensors" in err


def test_inspect_lists_shards_groups_and_files(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoint", "inspect", str(artifact), "--tensors"]) == OK
    out = capsys.readouterr().out
    assert artifact.name in out and "LlamaForCausalLM" in out
    assert "qkv 2, gate_up 2" in out
    assert "tokenizer.json" in out and "model.embed_tokens.weight" in out


def test_inspect_as_json_is_one_document(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoint", "inspect", str(artifact), "--json"]) == OK
    document = json.loads(capsys.readouterr().out)
    assert document["revision"] == artifact.name
    assert [shard["kind"] for shard in document["shards"]] == ["embed", "block", "block", "final"]


def test_verify_of_a_whole_artifact_succeeds(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoint", "verify", str(artifact), "--revision", artifact.name]) == OK
    assert "is whole" in capsys.readouterr().err


def test_verify_names_the_place_of_a_flipped_bit(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in artifact.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "model.bin").write_bytes(weights)
    assert run(["checkpoint", "verify", str(tmp_path)]) == FAILED
    err = capsys.readouterr().err
    assert "model.bin" in err and "chunk 0" in err and err.count("\n") == 1


def test_directory_that_is_no_artifact_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["checkpoint", "inspect", str(tmp_path), "--json"]) == FAILED
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "invalid_checkpoint"
    assert "is not an artifact" in err
