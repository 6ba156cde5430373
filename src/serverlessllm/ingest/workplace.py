# SPDX-License-Identifier: Apache-2.0
"""A service's places on disk, and what a job's child is told.

<data_dir>/artifacts/<revision>/      what jobs make
<data_dir>/ingest/fetch/<source>/     files that a job fetches, until its artifact is there
<data_dir>/ingest/jobs/               see `job_store.py`
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serverlessllm.checkpoint.staging import StagingDirectory
from serverlessllm.config import Config
from serverlessllm.ingest import fetch_area
from serverlessllm.ingest.fetch_area import FetchArea, area_name
from serverlessllm.ingest.work_order import WorkOrder
from serverlessllm.wire.ingest import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workplace:
    """The places below one data directory."""

    config: Config

    @property
    def artifacts(self) -> Path:
        return self.config.data_path / "artifacts"

    @property
    def ingest(self) -> Path:
        return self.config.data_path / "ingest"

    @property
    def fetches(self) -> Path:
        return self.ingest / "fetch"

    def order(self, job: Job) -> WorkOrder:
        """What the child that does the job's work is told. A source that was resolved once stays what it was."""
        return WorkOrder(
            source=job.resolved or job.source,
            artifacts=self.artifacts,
            fetches=self.fetches,
            dtype=job.dtype,
            publish=job.publish if job.publish is not None else self.config.ingest.publish,
            republish=job.republish,
            allow_private_urls=self.config.ingest.allow_private_urls,
            sources=self.config.sources,
            parent_pid=os.getpid(),
        )

    def discard(self, resolved: str) -> None:
        """Remove the fetched files of a source, unless another job works with them."""
        try:
            FetchArea(self.fetches, resolved, wait=False).discard()
        except OSError as error:
            log.info("fetched files of %s stay: %s", shown(resolved), error)

    def sweep(self, unfinished: Iterable[str], done: Iterable[str]) -> None:
        """Remove what killed conversions left, and fetched files that nobody needs or asked for in a long time.

        Both are sources as they were resolved. `done`: those whose artifact is here; a kill may come between the
        end of a job and the end of its files.
        """
        StagingDirectory(self.artifacts).discard()  # making one sweeps those without an owner
        for resolved in done:
            if (self.fetches / area_name(resolved)).is_dir():
                self.discard(resolved)
        keep = {area_name(resolved) for resolved in unfinished}
        for name in fetch_area.sweep(self.fetches, keep, self.config.ingest.keep_fetched_s):
            log.info("removed the fetched files in %s: nobody asked for them again", name)


def shown(source: str) -> str:
    """A source for logs: what follows a URL's question mark may be a signature."""
    return source.partition("?")[0]
