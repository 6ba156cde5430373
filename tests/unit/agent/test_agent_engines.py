# SPDX-License-Identifier: Apache-2.0
"""Which engines a node offers."""

from __future__ import annotations

import pytest

from serverlessllm.agent.engines import installed_engines, offered_engines
from serverlessllm.config import Config, replace
from serverlessllm.errors import ConfigError


def test_node_offers_all_that_is_installed_unless_told_otherwise() -> None:
    assert offered_engines(Config()) == installed_engines(Config())
    only = replace(Config(), {"engine": {"kinds": "simulated"}})
    assert offered_engines(only) == ["simulated"]


def test_engine_that_cannot_run_here_is_refused_by_name() -> None:
    config = replace(Config(), {"engine": {"kinds": ["simulated", "abacus"]}})
    with pytest.raises(ConfigError, match="'abacus' does not run here") as caught:
        offered_engines(config)
    assert caught.value.param == "engine.kinds"
