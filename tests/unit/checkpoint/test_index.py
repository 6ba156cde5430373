# SPDX-License-Identifier: Apache-2.0
"""The index as a user of the format sees it: pinned bytes, the region, what is kept and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3

from serverlessllm.checkpoint.index import CheckpointIndex
from serverlessllm.checkpoint.strict_json import dumps_canonical
from serverlessllm.errors import CheckpointFormatError, UnsupportedCheckpointError
from support.tiny_checkpoints import write_tiny_artifact

GOLDEN = Path(__file__).parent / "golden"


def test_tiny_model_gives_the_golden_bytes(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path)
    for name in ("model.idx", "model.bin"):
        assert (artifact.directory / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_revision_is_the_head_of_the_hash_of_the_index_bytes() -> None:
    data = (GOLDEN / "model.idx").read_bytes()
    index = CheckpointIndex.parse(data)
    assert index.revision == blake3(data).hexdigest()[:32] == "e3fb11f6f5c9478449ebfa395745692b"
    assert index.to_bytes() == data


def test_region_of_one_file_is_the_file_itself(tmp_path: Path) -> None:
    index = write_tiny_artifact(tmp_path).index
    assert [index.region_offset(shard.id) for shard in index.shards] == [0, 4096, 8192]
    assert index.weights_nbytes == 8192 + 16


def test_region_of_several_files_starts_each_on_a_4_kib_border(tmp_path: Path) -> None:
    index = write_tiny_artifact(tmp_path, max_file_bytes=4200).index
    assert [f.region_offset for f in index.weight_files] == [0, 4096]
    assert index.region_offset("final") == 8192
    assert index.weights_nbytes == 8192 + 16


def test_unknown_optional_fields_are_kept() -> None:
    tree = json.loads((GOLDEN / "model.idx").read_bytes())
    tree["derived_from"] = "0" * 32
    tree["shards"][0]["encodings"][0]["note"] = {"a": [1.5, None]}
    data = dumps_canonical(tree)
    assert CheckpointIndex.parse(data).to_bytes() == data


def test_unknown_required_feature_is_refused_by_name() -> None:
    tree = json.loads((GOLDEN / "model.idx").read_bytes())
    tree["required_features"] = ["entropy-coding"]
    with pytest.raises(UnsupportedCheckpointError, match="entropy-coding") as caught:
        CheckpointIndex.parse(dumps_canonical(tree))
    assert caught.value.param == "required_features"


def test_same_content_with_spaces_is_not_canonical() -> None:
    tree = json.loads((GOLDEN / "model.idx").read_bytes())
    with pytest.raises(CheckpointFormatError, match="not canonical"):
        CheckpointIndex.parse(json.dumps(tree).encode())
