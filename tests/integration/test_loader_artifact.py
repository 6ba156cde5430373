# SPDX-License-Identifier: Apache-2.0
"""A real artifact through the loader: its tensors read the same from the arena as from its files."""

from __future__ import annotations

import os
from pathlib import Path

from serverlessllm.arena.arena import Arena
from serverlessllm.arena.mapping import map_extents
from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.writer import ArtifactWriter
from serverlessllm.clock import SystemClock
from serverlessllm.config import ArenaConfig, LoaderConfig
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.loader import Loader

MIB = 1 << 20
TENSORS = [
    TensorSpec("model.embed_tokens.weight", "f32", (100, 33)),
    *(
        TensorSpec(f"model.layers.{i}.self_attn.{p}_proj.weight", "f32", (33, 33))
        for i in (0, 1)
        for p in "qkvo"
    ),
    TensorSpec("model.norm.weight", "f32", (33,)),
]


def write_artifact(parent: Path) -> Artifact:
    arrangement = arrange(TENSORS, max_file_bytes=20_000)
    with ArtifactWriter(parent) as writer:
        writer.add_file("config.json", b'{"model_type":"llama"}')
        writer.begin(arrangement, {})
        for tensor in arrangement.tensors:
            writer.write(tensor.name, os.urandom(tensor.nbytes))
        return writer.publish(source_digest="0" * 64, architecture_digest="0" * 64)


async def test_tensors_read_the_same_from_the_arena_as_from_the_files(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifacts")
    arena = Arena.open(tmp_path, ArenaConfig(budget_bytes=4 * MIB, extent_bytes=2 * MIB, huge_pages="never"))
    clock = SystemClock()
    loader = Loader(arena, NvmeTier(tmp_path / "artifacts", 0, clock), LoaderConfig(chunk_bytes=4096), clock)
    report = await loader.load(artifact.revision, artifact)
    region = arena.get(artifact.revision)
    assert region is not None and len(artifact.index.weight_files) > 1
    with arena.pin(artifact.revision) as pin:
        view = map_extents(pin.fd, region.extents, writable=False).view
    assert report.nbytes == artifact.index.weights_nbytes
    for place in artifact.layout().tensors:
        assert view[place.offset : place.offset + place.nbytes] == artifact.tensor(place.name)
    await loader.close()
    arena.close(keep=False)
