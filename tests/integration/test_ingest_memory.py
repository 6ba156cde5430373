# SPDX-License-Identifier: Apache-2.0
"""A checkpoint three times larger than the memory that its conversion may have, most of it one tensor.

The limit is RLIMIT_AS of the child: the kernel refuses every allocation and every mapping beyond it, so a source
that was mapped, or a tensor that was held as a whole, would end in MemoryError.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.verify import verify
from serverlessllm.wire.ingest import ConvertReport, decode_child_line
from support.tiny_checkpoints import CONFIG

MIB = 1 << 20
LIMIT_BYTES = 192 * MIB
"""The interpreter with its libraries takes 110 MiB of this."""
NUM_ROWS = 3 * LIMIT_BYTES // MIB
NAME = "model.embed_tokens.weight"


def _rows() -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """The big tensor, one MiB of float32 at a time, each row different."""
    row = np.arange(MIB // 4, dtype=np.float32)
    for number in range(NUM_ROWS):
        yield row + np.float32(number * 7)


def _write_safetensors(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": False}))
    shape, small = [NUM_ROWS, MIB // 4], NUM_ROWS * MIB
    header = {
        NAME: {"dtype": "F32", "shape": shape, "data_offsets": [0, small]},
        "model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [small, small + 16]},
    }
    raw = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for row in _rows():
            file.write(row.tobytes())
        file.write(bytes(16))
    return directory


def _run_limited(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A Python with no more than `LIMIT_BYTES` of address space."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES)),
    )


def _convert_limited(source: Path, out: Path, dtype: str) -> Artifact:
    run = _run_limited("-m", "serverlessllm.ingest.convert", str(source), str(out), "--dtype", dtype)
    report = decode_child_line(run.stdout.splitlines()[-1])
    assert isinstance(report, ConvertReport), (report, run.stderr)
    return Artifact.open(Path(report.directory), expect_revision=report.revision)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoint_three_times_the_memory_limit_converts(tmp_path: Path, dtype: str) -> None:
    source = _write_safetensors(tmp_path / "hf")
    assert (source / "model.safetensors").stat().st_size > 3 * LIMIT_BYTES
    artifact = _convert_limited(source, tmp_path / "out", dtype)
    verify(artifact)
    found = artifact.tensor(NAME)
    size = len(found) // NUM_ROWS
    for number, row in enumerate(_rows()):
        expected = row if dtype == "float32" else _bfloat16(row)
        assert bytes(found[number * size : (number + 1) * size]) == expected.tobytes()


def _bfloat16(
    row: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """torch's rounding, which is not ours."""
    import torch

    return torch.from_numpy(row).to(torch.bfloat16).view(torch.uint8).numpy()


def test_limit_is_what_stops_a_process_that_holds_a_tensor() -> None:
    run = _run_limited("-c", f"import numpy; numpy.zeros({LIMIT_BYTES}, 'u1')")
    assert b"Unable to allocate" in run.stderr
