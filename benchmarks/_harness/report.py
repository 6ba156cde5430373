# SPDX-License-Identifier: Apache-2.0
"""What every benchmark prints: a table for people, and one JSON object as its last line."""

from __future__ import annotations

import json
import operator
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Aim:
    """A number that an issue asks for: `figure op value`."""

    figure: str
    op: str
    value: float

    def holds(self, figures: Mapping[str, float]) -> bool:
        return bool(_OPERATORS[self.op](figures[self.figure], self.value))


@dataclass(slots=True)
class Report:
    """Figures with their conditions and aims, unit in each name."""

    question: str
    conditions: dict[str, object]
    figures: dict[str, float] = field(default_factory=dict)
    aims: dict[str, Aim] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {
            "question": self.question,
            "commit": commit(),
            "conditions": self.conditions,
            "figures": {name: round(value, 4) for name, value in self.figures.items()},
            "aims": {
                name: {
                    "figure": aim.figure,
                    "op": aim.op,
                    "value": aim.value,
                    "holds": aim.holds(self.figures),
                }
                for name, aim in self.aims.items()
            },
        }

    def print(self) -> None:
        """The table, the aims, then the JSON line."""
        width = max(map(len, self.figures))
        print(f"\n{self.question}\n")
        for name, value in self.figures.items():
            print(f"  {name:<{width}}  {value:12.3f}")
        print()
        for name, aim in self.aims.items():
            verdict = "holds" if aim.holds(self.figures) else "MISSED"
            print(f"  {verdict:>6}  {name}: {self.figures[aim.figure]:.3f} {aim.op} {aim.value}")
        print()
        print(json.dumps(self.as_dict(), sort_keys=True), flush=True)

    def save(self, directory: Path) -> Path:
        """Write `<date>-<commit>-<device>.json` into a `results` folder."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{datetime.now(UTC):%Y-%m-%d}-{commit()}-cpu.json"
        path.write_text(json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n")
        return path


def commit() -> str:
    """The checkout's short commit, `-dirty` when files differ from it; without git, what `BENCH_COMMIT` says."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def machine(packages: tuple[str, ...]) -> dict[str, object]:
    """The conditions that every benchmark shares: processor, cores, memory, kernel, versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }
