# SPDX-License-Identifier: Apache-2.0
"""A job's work, in a process of its own: fetch the source, convert it, publish the artifact.

`python -m serverlessllm.ingest.work` takes a `WorkOrder` on stdin and prints JSON lines (`wire/ingest.py`). Whatever
kills it, nothing half-written is visible: the artifact appears by a rename, fetched files wait in their area for the
next run. Knows no job: its parent keeps those.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.config import source_environment
from serverlessllm.engine.process import die_with_parent
from serverlessllm.errors import SllmError
from serverlessllm.ingest.child_lines import print_line, run_printing
from serverlessllm.ingest.convert import convert
from serverlessllm.ingest.fetch_area import FetchArea
from serverlessllm.ingest.progress import ProgressMeter
from serverlessllm.ingest.remote import check_room, pinned
from serverlessllm.ingest.work_order import WorkOrder
from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch
from serverlessllm.sources.location import Location
from serverlessllm.sources.s3_upload import upload_directory
from serverlessllm.wire.ingest import ConvertReport, Fetched, Published, Resolved


def main() -> int:
    """The child process; exit codes as `run_printing`."""
    order = WorkOrder.parse(sys.stdin.buffer.read())
    die_with_parent(order.parent_pid)
    return run_printing(lambda: _work(order, SystemClock()))


def _work(order: WorkOrder, clock: Clock) -> ConvertReport:
    location = Location.parse(order.source)
    access = Access.from_config(
        order.sources, source_environment(), allow_private_urls=order.allow_private_urls
    )
    if location.kind == "path":
        report = convert(Path(location.root), order.artifacts, dtype=order.dtype, on_progress=print_line)
    else:
        report = _fetch_and_convert(order, pinned(location, access), access, clock)
    if order.publish:
        _publish(Path(report.directory), order, access, clock)
    return report


def _fetch_and_convert(order: WorkOrder, location: Location, access: Access, clock: Clock) -> ConvertReport:
    """The area keeps its files: our parent removes it once it has written down that the job is done."""
    print_line(Resolved(location.text))
    with FetchArea(order.fetches, location.text) as area:
        max_bytes = check_room(location, area.path, access)
        meter = ProgressMeter(0, print_line, clock, phase="fetch")

        def tell(done_bytes: int, total_bytes: int) -> None:
            meter.reach(done_bytes, total_bytes, kept_bytes=done_bytes - fetch.fetched_bytes)

        fetch = Fetch(location, area.path, access, max_bytes=max_bytes, on_progress=tell)
        try:
            fetched = fetch.run()
            print_line(Fetched(fetched.nbytes))
            return convert(fetched.directory, order.artifacts, dtype=order.dtype, on_progress=print_line)
        except SllmError as error:
            # People know the source by its name, not by where we keep it for a while.
            error.message = error.message.replace(str(area.path), location.name)
            raise


def _publish(artifact: Path, order: WorkOrder, access: Access, clock: Clock) -> None:
    """Upload to `order.publish/<revision>`; published before, it is left as it is unless that is not trusted."""
    below = Location.parse(order.publish)
    target = dataclasses.replace(below, prefix=below.key(artifact.name))
    meter = ProgressMeter(0, print_line, clock, phase="publish")
    upload_directory(artifact, target, access, is_trusted=not order.republish, on_progress=meter.reach)
    print_line(Published(target.name))


if __name__ == "__main__":
    sys.exit(main())
