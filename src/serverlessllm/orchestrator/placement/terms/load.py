# SPDX-License-Identifier: Apache-2.0
"""How long missing bytes take, at the bandwidths that the node itself was seen to give.

load = max( remote  bytes / (remote → dram, nvme),   where the node has none of them
            nvme    bytes / (nvme → dram),           where they lie on its disk
            device  bytes / (dram → device) )        always, unless a replica is bound there

The hops overlap, layer by layer, so that the slowest one counts. A hop that a node has not been seen to take is taken
to be as fast as on the other nodes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Tiers

REMOTE: Final = 0
NVME: Final = 1
DRAM: Final = 2
BOUND: Final = 3

ASSUMED_REMOTE_BYTES_PER_S: Final = 2e8
ASSUMED_NVME_BYTES_PER_S: Final = 1e9
ASSUMED_DEVICE_BYTES_PER_S: Final = 2e10


def load_s(
    tiers: Tiers,
    nbytes: float,
    remote_bytes_per_s: Floats,
    nvme_bytes_per_s: Floats,
    device_bytes_per_s: Floats,
) -> Floats:
    """`tiers` say where the bytes are now; a bandwidth of 0 was never seen."""
    reading_s = np.where(
        tiers >= DRAM,
        0.0,
        np.where(
            tiers == NVME,
            nbytes / seen_or(nvme_bytes_per_s, ASSUMED_NVME_BYTES_PER_S),
            nbytes / seen_or(remote_bytes_per_s, ASSUMED_REMOTE_BYTES_PER_S),
        ),
    )
    binding_s = np.where(
        tiers >= BOUND, 0.0, nbytes / seen_or(device_bytes_per_s, ASSUMED_DEVICE_BYTES_PER_S)
    )
    return np.maximum(reading_s, binding_s)


def seen_or(bytes_per_s: Floats, assumed: float) -> Floats:
    """The observed bandwidth; where there is none what other nodes gave on the mean, and where none did `assumed`."""
    is_seen = bytes_per_s > 0
    if is_seen.all():
        return bytes_per_s
    return np.where(is_seen, bytes_per_s, bytes_per_s[is_seen].mean() if is_seen.any() else assumed)
