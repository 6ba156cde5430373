# SPDX-License-Identifier: Apache-2.0
"""The first filter that drops a candidate is its reason."""

from __future__ import annotations

import numpy as np

from serverlessllm.orchestrator.placement.filter import FITS, REASONS, rejections


def test_first_reason_in_order_is_told_and_who_passes_all_fits() -> None:
    masks = [np.array([False, False, False]) for _ in REASONS]
    masks[REASONS.index("engine")][0] = masks[REASONS.index("memory")][0] = True
    masks[REASONS.index("memory")][1] = True
    found = rejections(masks)
    assert [REASONS[code] if code != FITS else None for code in found] == ["engine", "memory", None]
