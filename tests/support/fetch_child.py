# SPDX-License-Identifier: Apache-2.0
"""`python -m support.fetch_child URL DIRECTORY WORKERS`: one fetch, in a process that tests may kill."""

from __future__ import annotations

import sys
from pathlib import Path

from serverlessllm.sources.access import Access
from serverlessllm.sources.fetch import Fetch
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location
from serverlessllm.sources.url_policy import UrlPolicy


def main() -> None:
    """Fetch, then end with 0."""
    url, directory, workers = sys.argv[1:]
    access = Access(HttpAccess(UrlPolicy(allow_private=True)), num_workers=int(workers))
    Fetch(Location.parse(url), Path(directory), access, max_bytes=1 << 40).run()


if __name__ == "__main__":
    main()
