# SPDX-License-Identifier: Apache-2.0
"""A service's places on disk, and how a job's child is told of them.

<data_dir>/artifacts/<revision>/      what jobs make
<data_dir>/ingest/fetch/<source>/     files that a job fetches, until its artifact is there
<data_dir>/ingest/jobs/               see `job_store.py`
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serverlessllm.checkpoint.staging import StagingDirectory
from serverlessllm.config import IngestConfig
from serverlessllm.ingest import fetch_area
from serverlessllm.ingest.fetch_area import FetchArea, area_name
from serverlessllm.wire.ingest import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workplace:
    """The places below one data directory."""

    data_path: Path
    config: IngestConfig

    @property
    def artifacts(self) -> Path:
        return self.data_path / "artifacts"

    @property
    def ingest(self) -> Path:
        return self.data_path / "ingest"

    @property
    def fetches(self) -> Path:
        return self.ingest / "fetch"

    def arguments(self, job: Job) -> list[str]:
        """The command line of the child that does the job's work."""
        found = ["--artifacts", str(self.artifacts), "--fetches", str(self.fetches), "--source"]
        found.append(job.resolved or job.source)
        if job.dtype is not None:
            found += ["--dtype", job.dtype]
        publish = job.publish if job.publish is not None else self.config.publish
        if publish:
            found += ["--publish", publish]
        if self.config.allow_private_urls:
            found.append("--allow-private-urls")
        return found

    def discard(self, resolved: str) -> None:
        """Remove the fetched files of a source, unless another job works with them."""
        try:
            FetchArea(self.fetches, resolved, wait=False).discard()
        except OSError as error:
            log.info("fetched files of %s stay: %s", resolved, error)

    def sweep(self, unfinished: Iterable[str]) -> None:
        """Remove what killed conversions left, and fetched files that were not asked for in a long time."""
        StagingDirectory(self.artifacts).discard()  # making one sweeps those without an owner
        keep = {area_name(resolved) for resolved in unfinished}
        for name in fetch_area.sweep(self.fetches, keep, self.config.keep_fetched_s):
            log.info("removed the fetched files in %s: nobody asked for them again", name)
