# SPDX-License-Identifier: Apache-2.0
"""A job's work, in a process of its own: fetch the source, convert it, publish the artifact.

    python -m serverlessllm.ingest.work --source S --artifacts DIR --fetches DIR [--dtype D] [--publish S3]

Prints JSON lines (`wire/ingest.py`). Whatever kills it, nothing half-written is visible: the artifact appears by a
rename, fetched files wait in their area for the next run. Knows no job: its parent keeps those.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serverlessllm.engine.process import die_with_parent
from serverlessllm.ingest.child_lines import print_line, run_printing
from serverlessllm.ingest.convert import TARGET_DTYPES, convert
from serverlessllm.wire.ingest import ConvertReport


def main(arguments: Sequence[str] | None = None) -> int:
    """The child process; exit codes as `run_printing`."""
    parser = argparse.ArgumentParser(prog="python -m serverlessllm.ingest.work")
    parser.add_argument("--parent-pid", type=int)
    parser.add_argument("--source", required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--fetches", type=Path, required=True)
    parser.add_argument("--dtype", choices=tuple(TARGET_DTYPES))
    parser.add_argument("--publish")
    parser.add_argument("--allow-private-urls", action="store_true")
    options = parser.parse_args(arguments)
    if options.parent_pid is not None:
        die_with_parent(options.parent_pid)
    return run_printing(lambda: _work(options))


def _work(options: argparse.Namespace) -> ConvertReport:
    return convert(Path(options.source), options.artifacts, dtype=options.dtype, on_progress=print_line)


if __name__ == "__main__":
    sys.exit(main())
