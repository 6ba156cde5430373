# SPDX-License-Identifier: Apache-2.0
"""`python -m deploy.monitoring.dashboards [--write]`: the dashboards' JSON, printed or written to `grafana/`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.monitoring.dashboards.cluster import CLUSTER
from deploy.monitoring.dashboards.cold_start import COLD_START
from deploy.monitoring.dashboards.data_plane import DATA_PLANE
from deploy.monitoring.dashboards.engines import ENGINES
from deploy.monitoring.dashboards.model import Dashboard
from deploy.monitoring.dashboards.overview import OVERVIEW

FOLDER = Path(__file__).resolve().parent.parent / "grafana"
DASHBOARDS = (OVERVIEW, COLD_START, DATA_PLANE, ENGINES, CLUSTER)


def text(dashboard: Dashboard) -> str:
    """The file's content."""
    return json.dumps(dashboard.as_json(), indent=2) + "\n"


def main() -> None:
    """Print, or write."""
    for dashboard in DASHBOARDS:
        if "--write" in sys.argv:
            (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard))
        else:
            sys.stdout.write(text(dashboard))


if __name__ == "__main__":
    main()
