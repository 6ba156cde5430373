# SPDX-License-Identifier: Apache-2.0
"""Kinds of engines by name."""

from __future__ import annotations

import pytest

from serverlessllm.engine.registry import engine_kind, load_dtype_choice, load_factory
from serverlessllm.errors import ConfigError


def test_factory_of_the_simulated_engine_makes_one() -> None:
    engine = load_factory("simulated")("bfloat16", 2)
    assert (engine.name, engine.dtype) == ("simulated", "bfloat16")


def test_simulated_engine_has_no_dtype_to_choose() -> None:
    assert load_dtype_choice("simulated") is None


def test_unknown_kind_is_refused_listing_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="torch, simulated, vllm"):
        engine_kind("vllm-9")
