# SPDX-License-Identifier: Apache-2.0
"""`sllm checkpoint`: make, look into and verify artifacts on this machine. Needs no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import json_option
from serverlessllm.cli.terminal import note, print_fields, print_json, print_table
from serverlessllm.cli.units import bytes_text, count_text, duration_text, rate_text

if TYPE_CHECKING:
    from serverlessllm.checkpoint.index import CheckpointIndex
    from serverlessllm.checkpoint.reader import Artifact


@click.group(epilog=exit_codes.EPILOG)
def checkpoint() -> None:
    """Convert, inspect and verify, without a server."""


@checkpoint.command(epilog=exit_codes.EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16", "float16")),
    help="Round floats to this; without it they stay as they are (quantised ones become bfloat16).",
)
@json_option
def convert(source: Path, out: Path, dtype: str | None, as_json: bool) -> None:
    """Convert SOURCE into the artifact OUT/<revision>.

    SOURCE is a Hugging Face directory, a GGUF file or an artifact. Interrupted, it leaves nothing behind.
    """
    from serverlessllm.cli.progress import ByteProgress
    from serverlessllm.ingest.convert import convert as convert_checkpoint

    out.mkdir(parents=True, exist_ok=True)
    with ByteProgress(f"converting {source.name}", is_shown=not as_json) as bar:
        report = convert_checkpoint(
            source,
            out,
            dtype=dtype,
            on_progress=lambda progress: bar.update(progress.done_bytes, progress.total_bytes),
        )
    if as_json:
        print_json(report)
        return
    speed = rate_text(report.nbytes / max(report.seconds, 1e-9))
    note(
        f"{report.num_tensors} tensors, {bytes_text(report.nbytes)} in {duration_text(report.seconds)} ({speed})"
    )
    click.echo(report.directory)


@checkpoint.command(epilog=exit_codes.EPILOG)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor too.")
@json_option
def inspect(directory: Path, tensors: bool, as_json: bool) -> None:
    """Show what the artifact in DIRECTORY holds: shards, tensors, groups, files and their sizes."""
    from serverlessllm.checkpoint.reader import Artifact

    artifact = Artifact.open(directory)
    if as_json:
        print_json(_document(artifact, with_tensors=tensors))
        return
    index = artifact.index
    print_fields(
        [
            ("revision", index.revision),
            ("architecture", _architecture(artifact)),
            (
                "weights",
                f"{bytes_text(index.weights_nbytes)} in {count_text(len(index.weight_files), 'file')}",
            ),
            ("tensors", f"{len(index.tensors)} ({_counts(entry.dtype for entry in index.tensors)})"),
            ("groups", _counts(group.kind for group in index.groups)),
            ("aliases", ", ".join(f"{name} = {target}" for name, target in index.aliases.items())),
            ("files", ", ".join(f"{entry.name} {bytes_text(entry.nbytes)}" for entry in index.files)),
        ]
    )
    click.echo()
    _print_shards(index)
    if tensors:
        click.echo()
        _print_tensors(index)


def _print_shards(index: CheckpointIndex) -> None:
    num_tensors = Counter(entry.shard for entry in index.tensors)
    num_groups = Counter(group.shard for group in index.groups)
    print_table(
        ("SHARD", "KIND", "TENSORS", "GROUPS", "OFFSET", "SIZE", "CHUNKS"),
        (
            (
                shard.id,
                shard.kind,
                str(num_tensors[shard.id]),
                str(num_groups[shard.id]),
                str(index.region_offset(shard.id)),
                bytes_text(shard.raw.nbytes),
                str(len(shard.raw.chunk_digests)),
            )
            for shard in index.shards
        ),
        empty="no shards",
        right=("TENSORS", "GROUPS", "OFFSET", "SIZE", "CHUNKS"),
    )


def _print_tensors(index: CheckpointIndex) -> None:
    print_table(
        ("TENSOR", "DTYPE", "SHAPE", "SHARD", "OFFSET", "SIZE"),
        (
            (
                entry.name,
                entry.dtype,
                " × ".join(map(str, entry.shape)),
                entry.shard,
                str(entry.offset),
                bytes_text(entry.nbytes),
            )
            for entry in index.tensors
        ),
        empty="no tensors",
        right=("OFFSET", "SIZE"),
    )


def _document(artifact: Artifact, *, with_tensors: bool) -> dict[str, object]:
    """`inspect` for programs; shards without their digests, which `model.idx` has."""
    index = artifact.index
    document: dict[str, object] = {
        "revision": index.revision,
        "architecture": _architecture(artifact),
        "weights_nbytes": index.weights_nbytes,
        "num_tensors": len(index.tensors),
        "groups": Counter(group.kind for group in index.groups),
        "aliases": dict(index.aliases),
        "files": {entry.name: entry.nbytes for entry in index.files},
        "shards": [
            {
                "id": shard.id,
                "kind": shard.kind,
                "offset": index.region_offset(shard.id),
                "nbytes": shard.raw.nbytes,
            }
            for shard in index.shards
        ],
    }
    if with_tensors:
        document["tensors"] = [entry.as_json() for entry in index.tensors]
    return document


def _architecture(artifact: Artifact) -> str:
    """The name that `config.json` gives."""
    names = artifact.config().get("architectures")
    return ", ".join(map(str, names)) if isinstance(names, list) else "unknown"


def _counts(names: Iterable[str]) -> str:
    """`bf16 272, f32 1`, in order of appearance."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).items())


@checkpoint.command(epilog=exit_codes.EPILOG)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--revision", help="Fail unless the artifact is this revision: the root of trust.")
@json_option
def verify(directory: Path, revision: str | None, as_json: bool) -> None:
    """Check every byte of the artifact in DIRECTORY against its digests; exit 1 names the first difference."""
    from serverlessllm.checkpoint.reader import Artifact
    from serverlessllm.checkpoint.verify import verify as verify_artifact
    from serverlessllm.cli.progress import ByteProgress

    artifact = Artifact.open(directory, expect_revision=revision)
    with ByteProgress(f"verifying {artifact.revision[:12]}", is_shown=not as_json) as bar:
        report = verify_artifact(artifact, bar.update)
    if as_json:
        print_json(report)
        return
    note(
        f"{report.revision} is whole: {report.num_chunks} chunks, {report.num_files} files, "
        f"{bytes_text(report.nbytes)}"
    )
