# SPDX-License-Identifier: Apache-2.0
"""Fetch and convert one model and publish the artifact, with an ingest service that lives as long as the job.

    SLLM_INGEST_PUBLISH=s3://bucket/prefix python deploy/convert_model.py "SOURCE [DTYPE]"

Prints the artifact's address. Needs an installed serverlessllm with the extras ingest, s3 and hub; accounts as
docs/sources.md says (HF_TOKEN, AWS_*).
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from serverlessllm.errors import SllmError
from serverlessllm.sdk.ingest import IngestClient
from serverlessllm.sdk.local_server import LocalServer
from serverlessllm.wire.ingest import IngestRequest, Job


async def convert(url: str, secret: str, source: str, dtype: str | None) -> Job:
    """The finished job; progress goes to stderr, a line per phase. Raises SllmError for a source that is refused."""
    client = IngestClient(url, secret)
    try:
        asked = msgspec.convert({"source": source, "dtype": dtype}, IngestRequest)
        job = await client.ingest(asked)
        job_id, phase = job.id, None
        async for job in client.follow(job_id):
            if job.phase is not None and job.phase != phase:
                phase = job.phase
                sys.stderr.write(f"{source}: {phase}\n")
    finally:
        await client.aclose()
    return job


def main() -> int:
    """Exit 0: stored; 1: not, and why; 2: called wrongly."""
    words = " ".join(sys.argv[1:]).split()
    if len(words) not in (1, 2) or not os.environ.get("SLLM_INGEST_PUBLISH", "").startswith("s3://"):
        sys.stderr.write("usage: SLLM_INGEST_PUBLISH=s3://bucket/prefix convert_model.py SOURCE [DTYPE]\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="sllm-convert-") as scratch:
        data_dir = Path(scratch)
        try:
            with LocalServer(data_dir, command="ingest") as server:
                secret = (data_dir / "secret").read_text().strip()
                job = asyncio.run(convert(server.url, secret, words[0], words[1] if words[1:] else None))
        except SllmError as error:
            sys.stderr.write(f"convert_model: {error.message}\n")
            return 1
    if job.state != "done":
        sys.stderr.write(f"convert_model: {words[0]}: {(job.error or {}).get('message', job.state)}\n")
        return 1
    sys.stdout.write(f"{job.source} → {job.origins[0]} ({job.nbytes} bytes)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
