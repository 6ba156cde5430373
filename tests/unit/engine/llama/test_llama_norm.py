# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import rms_norm

from serverlessllm.engine.llama.norm import RmsNorm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_norm_equals_the_composed_one(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    torch.manual_seed(0)
    rows = (torch.randn(5, 576) * scale + 0.5 * scale).to(dtype)
    weight = torch.randn(576).to(dtype)
    expected = rms_norm(rows.float(), (576,), weight.float(), 1e-5)
    torch.testing.assert_close(
        RmsNorm.of(weight, 1e-5)(rows).float(), expected, rtol=tolerance, atol=tolerance
    )
