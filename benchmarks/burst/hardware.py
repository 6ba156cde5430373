# SPDX-License-Identifier: Apache-2.0
"""The simulated cluster: sizes and speeds, and the scale at which real agents play it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCALE: Final = 1000
"""Real agents move a thousandth of the bytes at a thousandth of the speeds: every duration stays as it is."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Nodes that are all alike. Bytes in DRAM include those of bound models."""

    num_nodes: int = 4
    num_seats: int = 6
    dram_models: int = 8
    model_bytes: float = 14e9
    nvme_bytes_per_s: float = 7e9
    device_bytes_per_s: float = 25e9
    step_s: float = 0.02
    max_batch: int = 32
    prompt_tokens: int = 200
    answer_tokens: int = 40

    @property
    def bind_s(self) -> float:
        """DRAM → device."""
        return self.model_bytes / self.device_bytes_per_s

    @property
    def read_s(self) -> float:
        """NVMe → DRAM, alone."""
        return self.model_bytes / self.nvme_bytes_per_s

    @property
    def prefill_s(self) -> float:
        """A prompt takes one step."""
        return self.step_s

    @property
    def service_s(self) -> float:
        """How long a request holds its place in the batch."""
        return self.prefill_s + (self.answer_tokens - 1) * self.step_s
