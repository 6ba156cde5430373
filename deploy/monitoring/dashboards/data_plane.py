# SPDX-License-Identifier: Apache-2.0
"""Do bytes move as fast as they could, is there room for them, and are they right?"""

from __future__ import annotations

from deploy.monitoring.dashboards.model import Dashboard, Panel, Query, rate

BANDWIDTH = "sllm_bandwidth"

DATA_PLANE = Dashboard(
    "sllm-data-plane",
    "ServerlessLLM / Data plane",
    [
        Panel(
            "Bandwidth of tiers",
            "What loads got (EWMA), by node and tier.",
            [Query(f'{BANDWIDTH}_bytes_per_second{{source=""}}', "{{instance}} {{tier}}")],
            "Bps",
        ),
        Panel(
            "Achieved of possible",
            "Observed bandwidth over the most that the tier is known to give (`sllm tune io`, or the fastest load).",
            [
                Query(
                    f'max by (instance, tier) ({BANDWIDTH}_bytes_per_second{{source=""}}) / '
                    f"max by (instance, tier) ({BANDWIDTH}_possible_bytes_per_second > 0)",
                    "{{instance}} {{tier}}",
                )
            ],
            "percentunit",
        ),
        Panel(
            "Bandwidth of sources",
            "Each disk and each origin.",
            [Query(f'{BANDWIDTH}_bytes_per_second{{source!=""}}', "{{instance}} {{source}}")],
            "Bps",
        ),
        Panel(
            "Spread of bandwidth",
            "Standard deviation of what loads got: how far expected times can be trusted.",
            [Query(f'{BANDWIDTH}_deviation_bytes_per_second{{source=""}}', "{{instance}} {{tier}}")],
            "Bps",
        ),
        Panel(
            "Bytes read",
            "Into DRAM, by the tier they came from.",
            [Query(rate("sllm_read_bytes_total", "instance, tier"), "{{instance}} {{tier}}")],
            "Bps",
            is_stacked=True,
        ),
        Panel(
            "DRAM tier in use",
            "Full is normal for a cache; evictions say whether it is too small.",
            [Query("sllm:arena_used:ratio", "{{instance}}")],
            "percentunit",
        ),
        Panel(
            "DRAM tier",
            "Budget, what weights hold, and free memory whose pages are ready for a load.",
            [Query("sllm_arena_bytes", "{{instance}} {{kind}}")],
            "bytes",
        ),
        Panel(
            "Evictions",
            "Models that were pushed out of DRAM, per second.",
            [Query(rate("sllm_evictions_total", "instance"), "{{instance}}")],
            "cps",
        ),
        Panel(
            "Corrupt shards",
            "Found within an hour, by where: they were not used.",
            [
                Query(
                    "sum by (instance, tier) (increase(sllm_corrupt_shards_total[1h]))",
                    "{{instance}} {{tier}}",
                )
            ],
        ),
        Panel(
            "Disk",
            "Size, free space, and the room that the NVMe tier may still write.",
            [Query("sllm_disk_bytes", "{{instance}} {{kind}}")],
            "bytes",
        ),
        Panel(
            "Room on the disk",
            "Share of the disk that the NVMe tier may still write.",
            [Query("sllm:disk_room:ratio", "{{instance}}")],
            "percentunit",
        ),
        Panel(
            "Open files",
            "Descriptors of each process, of those it may have.",
            [Query("process_open_fds / process_max_fds", "{{job}} {{instance}}")],
            "percentunit",
        ),
    ],
)
