# SPDX-License-Identifier: Apache-2.0
"""Any checkpoint in, an artifact out: `convert`, and the same as a child process that prints JSON lines.

Streams in slices: memory is bounded by `SLICE_BYTES` in the source's and in the target's dtype, however large a
tensor is. Knows neither formats (`formats/`) nor places (`checkpoint/arrange.py`). The revision depends on
contents alone: names, dtypes, shapes, bytes and files, not on the container, its path or the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from serverlessllm.checkpoint.arrange import Arrangement, TensorSpec, arrange
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.checkpoint.spec import DTYPE_BYTES
from serverlessllm.checkpoint.strict_json import dumps_canonical
from serverlessllm.checkpoint.writer import ArtifactWriter
from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import InvalidRequestError
from serverlessllm.ingest.cast import FLOATS, cast_into
from serverlessllm.ingest.child_lines import print_line, run_printing
from serverlessllm.ingest.formats.base import Source, SourceTensor
from serverlessllm.ingest.formats.registry import open_source
from serverlessllm.ingest.progress import ProgressMeter
from serverlessllm.wire.ingest import ConvertReport, Progress

SLICE_BYTES: Final = 8 << 20
"""Of a tensor that are in memory at once; a multiple of every item size."""
_MAX_GROWTH: Final = 2  # f16 or bf16 to f32

TARGET_DTYPES: Final = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_DTYPE_NAMES: Final = {short: name for name, short in TARGET_DTYPES.items()}
_HEAD, _EMBED = "lm_head.weight", "model.embed_tokens.weight"
_NOT_ARCHITECTURE: Final = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to read, as what, and where it goes."""

    sources: dict[str, SourceTensor]
    arrangement: Arrangement
    aliases: dict[str, str]
    digests: dict[str, str]  # of tensors that were read while planning


def convert(
    source: Path,
    out_dir: Path,
    *,
    dtype: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> ConvertReport:
    """Convert the checkpoint at `source` to `out_dir/<revision>`; nothing else appears in `out_dir`.

    `dtype` (float32, bfloat16, float16) converts floats; None keeps the source's, or takes bfloat16 for a
    quantised one. Converting the same content again gives the same revision and reuses it.
    Raises: NotFoundError for no source; CheckpointError and its subclasses for a bad one; InvalidRequestError
    for a dtype or an `out_dir` that cannot be written; CapacityError for a full disk.
    """
    clock = clock or SystemClock()
    started_s = clock.monotonic_s()
    if dtype is not None and dtype not in TARGET_DTYPES:
        raise InvalidRequestError(f"dtype: {dtype!r} is not one of {', '.join(TARGET_DTYPES)}", param="dtype")
    opened = open_source(source)
    target = TARGET_DTYPES[dtype] if dtype else opened.default_dtype
    plan = _plan(opened, target)
    meter = ProgressMeter(plan.arrangement.nbytes, on_progress, clock)
    with ArtifactWriter(out_dir) as writer:
        for name, data in _files(opened, target).items():
            writer.add_file(name, data)
        writer.begin(plan.arrangement, plan.aliases)
        _write_tensors(opened, plan, writer, meter)
        artifact = writer.publish(
            source_digest=opened.digest or _source_digest(plan),
            architecture_digest=_architecture_digest(opened.config(), plan),
        )
    return _report(artifact, clock.monotonic_s() - started_s)


def _plan(source: Source, target: str | None) -> _Plan:
    tensors = {tensor.name: tensor for tensor in source.tensors()}
    aliases, digests = dict(source.aliases), dict[str, str]()
    if source.config().get("tie_word_embeddings") is True and _EMBED in tensors and _HEAD not in aliases:
        if _HEAD in tensors:
            digests = {name: _digest(source, tensors[name]) for name in (_HEAD, _EMBED)}
        if _HEAD not in tensors or _is_equal(tensors, digests):
            tensors.pop(_HEAD, None)
            aliases[_HEAD] = _EMBED
    specs = [TensorSpec(t.name, _target_dtype(t.dtype, target), t.shape) for t in tensors.values()]
    return _Plan(tensors, arrange(specs), aliases, digests)


def _is_equal(tensors: dict[str, SourceTensor], digests: dict[str, str]) -> bool:
    """Whether a stored head is the embedding over again."""
    head, embed = tensors[_HEAD], tensors[_EMBED]
    return (head.dtype, head.shape, digests[_HEAD]) == (embed.dtype, embed.shape, digests[_EMBED])


def _target_dtype(dtype: str, target: str | None) -> str:
    """Integers, booleans and 8-bit floats (whose scales would be lost) stay what they are."""
    return target if target is not None and dtype in FLOATS else dtype


def _digest(source: Source, tensor: SourceTensor) -> str:
    hasher = blake3()
    for data in _slices(source, tensor, memoryview(bytearray(SLICE_BYTES))):
        hasher.update(data)
    return hasher.hexdigest()


def _slices(source: Source, tensor: SourceTensor, buffer: memoryview) -> Iterator[memoryview]:
    """The tensor's bytes in order, in `buffer`; at least one slice, so that an empty tensor is written too."""
    for offset in range(0, max(tensor.nbytes, 1), len(buffer)):
        data = buffer[: min(len(buffer), tensor.nbytes - offset)]
        source.read_into(tensor.name, data, offset)
        yield data


def _write_tensors(source: Source, plan: _Plan, writer: ArtifactWriter, meter: ProgressMeter) -> None:
    """Read, hash, convert and write each tensor, slice by slice, through two buffers."""
    given = memoryview(bytearray(SLICE_BYTES))
    wanted = memoryview(bytearray(SLICE_BYTES * _MAX_GROWTH))
    for entry in plan.arrangement.tensors:
        tensor = plan.sources[entry.name]
        hasher = blake3()
        for data in _slices(source, tensor, given):
            hasher.update(data)
            if tensor.dtype != entry.dtype:
                size = len(data) // DTYPE_BYTES[tensor.dtype] * DTYPE_BYTES[entry.dtype]
                cast_into(data, tensor.dtype, wanted[:size], entry.dtype, entry.name)
                data = wanted[:size]
            writer.write(entry.name, data)
            meter.advance(len(data))
        plan.digests[entry.name] = hasher.hexdigest()


def _files(source: Source, target: str | None) -> dict[str, bytes]:
    """The source's files; `config.json` says the new dtype if there is one, and is untouched otherwise."""
    files = source.files()
    if target is not None:
        config = source.config()
        config["dtype" if "dtype" in config else "torch_dtype"] = _DTYPE_NAMES[target]
        files["config.json"] = json.dumps(config, ensure_ascii=False, indent=2).encode()
    return files


def _source_digest(plan: _Plan) -> str:
    """BLAKE3 over canonical JSON of (name, dtype, shape, BLAKE3) of the source's tensors, by name."""
    rows = [
        [name, tensor.dtype, list(tensor.shape), plan.digests[name]]
        for name, tensor in sorted(plan.sources.items())
    ]
    return blake3(dumps_canonical(rows)).hexdigest()


def _architecture_digest(config: dict[str, object], plan: _Plan) -> str:
    """Equal for artifacts that differ in weights alone: config without names and versions, tensors, aliases."""
    kept = {key: value for key, value in config.items() if key not in _NOT_ARCHITECTURE}
    tensors = [[entry.name, entry.dtype, list(entry.shape)] for entry in plan.arrangement.tensors]
    # Others' configs may hold Infinity, which canonical JSON has not; as text it still tells them apart.
    text = json.dumps(kept, sort_keys=True)
    return blake3(dumps_canonical([text, tensors, sorted(plan.aliases.items())])).hexdigest()


def _report(artifact: Artifact, seconds: float) -> ConvertReport:
    return ConvertReport(
        revision=artifact.revision,
        directory=str(artifact.directory),
        nbytes=artifact.index.weights_nbytes,
        num_tensors=len(artifact.index.tensors),
        seconds=round(seconds, 3),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The child process: JSON lines on stdout; exit codes as `run_printing`."""
    parser = argparse.ArgumentParser(prog="python -m serverlessllm.ingest.convert")
    parser.add_argument("source", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--dtype", choices=tuple(TARGET_DTYPES))
    options = parser.parse_args(arguments)
    return run_printing(
        lambda: convert(options.source, options.out_dir, dtype=options.dtype, on_progress=print_line)
    )


if __name__ == "__main__":
    sys.exit(main())
