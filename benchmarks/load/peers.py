# SPDX-License-Identifier: Apache-2.0
"""The peers, each in a process of its own: `peers.py NAME WARM_UP_DIR CHECKPOINT_DIR`.

Loads a small checkpoint first, prints a line, and at each line of input loads the checkpoint into CPU memory as the
peer's documentation says, touches every page and answers one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.load.checkpoint import Checkpoint
from benchmarks.load.touch import Stopwatch, touch

Tensors = Mapping[str, torch.Tensor]
Loaded = tuple[Tensors, object]
"""The tensors, and what has to stay alive with them."""


def load_safetensors(checkpoint: Checkpoint) -> Loaded:
    from safetensors.torch import load_file

    return load_file(checkpoint.safetensors), None


def load_torch(checkpoint: Checkpoint) -> Loaded:
    return torch.load(checkpoint.torch_file, weights_only=True), None


def load_torch_mmap(checkpoint: Checkpoint) -> Loaded:
    return torch.load(checkpoint.torch_file, weights_only=True, mmap=True), None


def load_runai(checkpoint: Checkpoint) -> Loaded:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(checkpoint.safetensors))
        return dict(streamer.get_tensors()), None


def load_fastsafetensors(checkpoint: Checkpoint) -> Loaded:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), torch.device("cpu"), nogds=True)
    loader.add_filenames({0: [str(checkpoint.safetensors)]})
    buffers = loader.copy_files_to_device()
    return {key: buffers.get_tensor(key) for key in buffers.key_to_rank_lidx}, (loader, buffers)


def load_tensorizer(checkpoint: Checkpoint) -> Loaded:
    from tensorizer import TensorDeserializer

    opened = TensorDeserializer(str(checkpoint.tensorizer_file), device="cpu", lazy_load=False)
    return dict(opened.items()), opened


def load_transformers(checkpoint: Checkpoint) -> Loaded:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(checkpoint.hf_dir, dtype=torch.bfloat16)
    return model.state_dict(), model


PEERS: Final[dict[str, tuple[str, Callable[[Checkpoint], Loaded]]]] = {
    "safetensors": ("safetensors", load_safetensors),
    "torch": ("torch", load_torch),
    "torch_mmap": ("torch", load_torch_mmap),
    "runai": ("runai-model-streamer", load_runai),
    "fastsafetensors": ("fastsafetensors", load_fastsafetensors),
    "tensorizer": ("tensorizer", load_tensorizer),
    "transformers": ("transformers", load_transformers),
}
"""Row → (package, how it loads)."""


def file_of(name: str, checkpoint: Checkpoint) -> Path:
    """What the peer reads."""
    if name.startswith("torch"):
        return checkpoint.torch_file
    return checkpoint.tensorizer_file if name == "tensorizer" else checkpoint.safetensors


def measure(load: Callable[[Checkpoint], Loaded], checkpoint: Checkpoint) -> dict[str, Any]:
    """One load into fresh memory, every page touched within the timer. Raises: RuntimeError for a missing tensor."""
    watch = Stopwatch()
    tensors, keeper = load(checkpoint)
    loaded_s = watch.seconds
    checksum = sum(touch(tensor.view(-1).view(torch.uint8).numpy()) for tensor in tensors.values())
    answer = {"seconds": watch.seconds, "cpu_s": watch.cpu_s, "checksum": checksum, "load_s": loaded_s}
    if len(tensors) != checkpoint.num_tensors:
        raise RuntimeError(f"{len(tensors)} of {checkpoint.num_tensors} tensors were loaded")
    del tensors, keeper
    return answer


def main() -> None:
    """Warm up, then one measurement per line."""
    load = PEERS[sys.argv[1]][1]
    small, full = (Checkpoint.found(Path(directory)) for directory in sys.argv[2:4])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    measure(load, small)
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(load, full)), flush=True)


if __name__ == "__main__":
    main()
