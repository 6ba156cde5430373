# SPDX-License-Identifier: Apache-2.0
"""The chart's copies of the monitoring's rules and dashboards: Helm reads no file outside a chart.

`--write` renews them; without it, exit 1 and their names when they are not current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
MONITORING: Final = ROOT / "deploy" / "monitoring"
FILES: Final = ROOT / "deploy" / "helm" / "serverlessllm" / "files"


def copies() -> dict[Path, bytes]:
    """Each file that the chart should have, and its content."""
    rules = {
        FILES / "rules" / f"{name}.yaml": (MONITORING / "prometheus" / f"{name}.yml").read_bytes()
        for name in ("alerts", "recording")
    }
    boards = {
        FILES / "dashboards" / path.name: path.read_bytes()
        for path in (MONITORING / "grafana").glob("*.json")
    }
    return {**rules, **boards}


def main() -> int:
    """Exit 0: current, or written."""
    wanted = copies()
    stale = [path for path, data in wanted.items() if not path.is_file() or path.read_bytes() != data]
    stale += [path for path in FILES.glob("*/*") if path not in wanted]
    if "--write" in sys.argv:
        for path in stale:
            if path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wanted[path])
            else:
                path.unlink()
        return 0
    for path in stale:
        sys.stderr.write(
            f"{path.relative_to(ROOT)} is not current; run: python scripts/chart_files.py --write\n"
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
