# SPDX-License-Identifier: Apache-2.0
"""Thirty artifacts of the simulated engine, and their records in a cluster's metadata: nothing is converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from blake3 import blake3

from benchmarks.burst.hardware import SCALE, Hardware
from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.writer import ArtifactWriter
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord, encode
from serverlessllm.metadata.store import MetadataStore
from serverlessllm.types import EngineKind

VOCAB_SIZE: Final = 512
NUM_TENSORS: Final = 4


def model_name(index: int) -> str:
    """What clients call."""
    return f"model-{index:02d}"


def write_artifacts(parent: Path, hardware: Hardware, num_models: int) -> list[Artifact]:
    """`parent/<revision>` for each model, of a scaled size."""
    return [_write(parent, index, int(hardware.model_bytes / SCALE)) for index in range(num_models)]


async def register(
    store: MetadataStore,
    artifacts: list[Artifact],
    hardware: Hardware,
    engine: EngineKind,
    max_replicas: int | None,
) -> None:
    """Ready models, as if each had been added and converted; they keep awake until somebody needs their room."""
    options = {
        "device_bytes_per_s": hardware.device_bytes_per_s / SCALE,
        "prefill_s": hardware.prefill_s,
        "token_s": hardware.step_s,
    }
    for index, artifact in enumerate(artifacts):
        record = ModelRecord(
            name=model_name(index),
            state="ready",
            engine=engine,
            source=str(artifact.directory),
            created_at_s=0.0,
            revision=artifact.revision,
            artifact=str(artifact.directory),
            nbytes=artifact.index.weights_nbytes,
            options=options if engine == "simulated" else {},
            keep_alive_s=3600.0,
            max_replicas=max_replicas,
        )
        await store.put(Keys.model(record.name), encode(record))


def _write(parent: Path, index: int, nbytes: int) -> Artifact:
    config = {
        "model_type": "simulated",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 4096,
        "eos_token_id": 2,
    }
    specs = [
        TensorSpec(f"model.layers.{i}.weight", "u8", (nbytes // NUM_TENSORS,)) for i in range(NUM_TENSORS)
    ]
    arrangement = arrange(specs)
    with ArtifactWriter(parent) as writer:
        writer.add_file("config.json", json.dumps(config).encode())
        writer.add_file("tokenizer.json", _tokenizer_json())
        writer.begin(arrangement, {})
        for entry in arrangement.tensors:
            writer.write(entry.name, blake3(f"{index}/{entry.name}".encode()).digest(entry.nbytes))
        return writer.publish(source_digest=f"{index:064x}", architecture_digest="2" * 64)


def _tokenizer_json() -> bytes:
    """One word per id: prompts are sent as ids, and answers only have to have text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(
        WordLevel({f"w{token_id}": token_id for token_id in range(VOCAB_SIZE)}, unk_token="w0")
    )
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer.to_str().encode()
