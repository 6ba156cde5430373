# SPDX-License-Identifier: Apache-2.0
"""The plugin's reading of what the worker writes: tensors as views of the file, and refusals of what is not ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from serverlessllm.engine.base import RegionFile
from serverlessllm.engine.vllm_server.manifest import write_manifest
from serverlessllm.wire.worker import ModelLayout, TensorSlice

PLUGIN = Path(__file__).parents[3] / "vllm_plugin" / "src"
PAGE_BYTES = 4096


@pytest.fixture(autouse=True)
def plugin_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


@pytest.fixture
def region(tmp_path: Path) -> Iterator[RegionFile]:
    """Two pages, mapped in the other order: the numbers 0…2047 as f32 when read back to back."""
    data = torch.arange(2048, dtype=torch.float32).numpy().tobytes()
    path = tmp_path / "arena"
    path.write_bytes(data[PAGE_BYTES:] + data[:PAGE_BYTES])
    descriptor = os.open(path, os.O_RDONLY)
    yield RegionFile(descriptor, [(PAGE_BYTES, PAGE_BYTES), (0, PAGE_BYTES)])
    os.close(descriptor)


def written(tmp_path: Path, region: RegionFile, *tensors: TensorSlice) -> Path:
    path = tmp_path / "weights.json"
    write_manifest(path, ModelLayout({}, list(tensors), [], {"tied": tensors[0].name}), region)
    return path


def read(path: Path, *, with_aliases: bool = False) -> dict[str, torch.Tensor]:
    from serverlessllm_vllm.manifest import Manifest
    from serverlessllm_vllm.region import tensors

    return dict(tensors(Manifest.read(path), with_aliases=with_aliases))


def test_tensors_within_and_across_extents_have_their_numbers(tmp_path: Path, region: RegionFile) -> None:
    whole = TensorSlice("whole", "f32", (4, 2), 64, 32)
    across = TensorSlice("across", "f32", (8,), PAGE_BYTES - 16, 32)
    found = read(written(tmp_path, region, whole, across))
    assert found["whole"].tolist() == torch.arange(16, 24).reshape(4, 2).tolist()
    assert found["across"].tolist() == list(range(1020, 1028))


def test_tied_name_is_given_only_when_asked_for(tmp_path: Path, region: RegionFile) -> None:
    path = written(tmp_path, region, TensorSlice("embed", "f32", (2,), 0, 8))
    assert list(read(path)) == ["embed"]
    assert list(read(path, with_aliases=True)) == ["embed", "tied"]


def test_tensor_outside_the_region_is_refused_by_name(tmp_path: Path, region: RegionFile) -> None:
    path = written(tmp_path, region, TensorSlice("far", "f32", (2,), 2 * PAGE_BYTES - 4, 8))
    with pytest.raises(ValueError, match="far: lies outside"):
        read(path)


def test_document_of_another_version_is_refused_with_what_to_do(tmp_path: Path, region: RegionFile) -> None:
    path = written(tmp_path, region, TensorSlice("a", "f32", (2,), 0, 8))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ValueError, match="version 2.*make engines"):
        read(path)


def test_plugin_imports_nothing_of_the_platform() -> None:
    sources = list(PLUGIN.rglob("*.py"))
    assert len(sources) > 4
    assert not [
        path
        for path in sources
        if "import serverlessllm." in (text := path.read_text()) or "from serverlessllm." in text
    ]
