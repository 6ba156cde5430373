# SPDX-License-Identifier: Apache-2.0
"""The layout that an engine gets: offsets count from the region, over all files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.tiny_checkpoints import CONFIG, tiny_tensors, write_tiny_artifact


@pytest.mark.parametrize("max_file_bytes", [1 << 30, 4200])
def test_every_tensor_is_where_the_layout_says(tmp_path: Path, max_file_bytes: int) -> None:
    artifact = write_tiny_artifact(tmp_path, max_file_bytes=max_file_bytes)
    region = bytearray(artifact.index.weights_nbytes)
    for weights in artifact.index.weight_files:
        end = weights.region_offset + weights.nbytes
        region[weights.region_offset : end] = artifact.weights(weights.name)
    arrays = tiny_tensors()
    for entry in artifact.layout().tensors:
        found = np.frombuffer(region, np.float32, entry.nbytes // 4, entry.offset).reshape(entry.shape)
        np.testing.assert_array_equal(found, arrays[entry.name])


def test_fused_qkv_is_one_view_of_the_region(tmp_path: Path) -> None:
    artifact = write_tiny_artifact(tmp_path)
    arrays = tiny_tensors()
    group = next(group for group in artifact.layout().groups if group.kind == "qkv")
    fused = np.frombuffer(artifact.weights("model.bin"), np.float32, group.nbytes // 4, group.offset)
    expected = np.concatenate([arrays[name] for name in group.members])
    np.testing.assert_array_equal(fused.reshape(8, 4), expected)


def test_layout_carries_config_and_aliases(tmp_path: Path) -> None:
    layout = write_tiny_artifact(tmp_path).layout()
    assert layout.architecture == CONFIG
    assert layout.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
