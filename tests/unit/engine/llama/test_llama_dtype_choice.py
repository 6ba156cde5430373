# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from serverlessllm.engine.llama.dtype_choice import choose_dtype
from serverlessllm.engine.llama.engine import create


def test_chosen_dtype_is_one_the_engine_takes() -> None:
    dtype = choose_dtype(2)
    assert create(dtype, 2).dtype == dtype
