# SPDX-License-Identifier: Apache-2.0
"""Float conversion equals torch's, bit for bit, and refuses to lose finite values to infinity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serverlessllm.errors import UnsupportedCheckpointError
from serverlessllm.ingest.cast import cast_into

TORCH = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def _cast(tensor: torch.Tensor, source: str, target: str) -> torch.Tensor:
    raw = bytearray(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    out = bytearray(tensor.numel() * TORCH[target].itemsize)
    cast_into(memoryview(raw), source, memoryview(out), target, "t")
    return torch.frombuffer(out, dtype=TORCH[target])


@pytest.mark.parametrize("source", TORCH)
@pytest.mark.parametrize("target", ["f32", "f16", "bf16"])
def test_every_pair_equals_torch(source: str, target: str) -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values[:6] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 6.1e-5, 1e-7])
    tensor = values.to(TORCH[source])
    found = _cast(tensor, source, target)
    assert torch.equal(found.view(torch.uint8), tensor.to(TORCH[target]).view(torch.uint8))


def test_bf16_rounds_ties_to_even_over_all_mantissas() -> None:
    bits = torch.arange(0x3F000000, 0x3F040000, dtype=torch.int32)
    tensor = bits.view(torch.float32)
    assert torch.equal(_cast(tensor, "f32", "bf16"), tensor.to(torch.bfloat16))


def test_nan_stays_nan_whatever_its_payload() -> None:
    tensor = torch.from_numpy(np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32))
    assert torch.isnan(_cast(tensor, "f32", "bf16")).all()
    assert torch.isnan(_cast(tensor, "f32", "f16")).all()


def test_value_beyond_float16_is_refused_with_the_tensor_name() -> None:
    with pytest.raises(UnsupportedCheckpointError, match="beyond the range of float16") as caught:
        _cast(torch.tensor([1.0, 70000.0]), "f32", "f16")
    assert caught.value.param == "t"
