# SPDX-License-Identifier: Apache-2.0
"""What primed slots cost in memory while they wait: `python -m benchmarks.engine.slots`. See slots.md."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Final

import psutil

from benchmarks._harness.report import Report, machine
from serverlessllm.config import EngineConfig
from serverlessllm.engine.slots import SlotPool

MIB: Final = 1 << 20
COUNTS: Final = (1, 4, 8)
SETTLE_S: Final = 1.0


async def measure(num_slots: int, dtype: str) -> dict[str, float]:
    """MiB of the zygote and its waiting workers; PSS shares a page out among those who map it, USS is one's own."""
    with tempfile.TemporaryDirectory(prefix="sllm-") as home:
        pool = SlotPool(Path(home), EngineConfig(slots=num_slots, threads=2, dtype=dtype), ["torch"])
        await pool.start()
        try:
            while pool.states()["torch"].num_primed < num_slots:  # noqa: ASYNC110  # the pool has no event for it
                await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLE_S)
            children = psutil.Process().children(recursive=True)
            memory = [(child.name(), child.memory_full_info()) for child in children]
        finally:
            await pool.stop()
    workers = [each.uss / MIB for name, each in memory if not name.startswith("zygote")]
    return {
        f"{num_slots}_slots_pss_mib": sum(each.pss for _, each in memory) / MIB,
        f"{num_slots}_slots_worker_uss_mib": statistics.median(workers),
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    for count in COUNTS:
        figures |= asyncio.run(measure(count, args.dtype))
    first, last = COUNTS[0], COUNTS[-1]
    added = figures[f"{last}_slots_pss_mib"] - figures[f"{first}_slots_pss_mib"]
    figures["each_further_slot_mib"] = added / (last - first)
    conditions = machine(("torch", "psutil")) | {"dtype": args.dtype, "threads": 2}
    Report("slots: memory of primed slots that wait", conditions, figures).print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
