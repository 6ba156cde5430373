# SPDX-License-Identifier: Apache-2.0
"""What is set wins over what was measured, and that over what suits most."""

from __future__ import annotations

import pytest

from serverlessllm.config import MIB, LoaderConfig, SourcesConfig
from serverlessllm.errors import ConfigError
from serverlessllm.loader.io_settings import IoSettings, choose_connections, choose_io
from serverlessllm.node_profile import IoProfile

PROFILE = IoProfile(
    num_threads=8, read_bytes=16 * MIB, is_direct=False, bytes_per_s=3e9, measured_at_s=1.0, num_connections=5
)


def test_nothing_set_takes_what_was_measured() -> None:
    assert choose_io(LoaderConfig(), PROFILE) == IoSettings(8, 16 * MIB, "never", 3e9)
    assert choose_connections(SourcesConfig(), PROFILE) == 5


def test_settings_win_over_what_was_measured() -> None:
    config = LoaderConfig(threads=2, chunk_bytes=MIB, direct_io="always")
    assert choose_io(config, PROFILE) == IoSettings(2, MIB, "always", 3e9)
    assert choose_connections(SourcesConfig(connections=3), PROFILE) == 3


def test_node_that_was_never_measured_has_usual_values() -> None:
    assert choose_io(LoaderConfig(), None) == IoSettings(4, 8 * MIB, "auto", 0.0)
    assert choose_connections(SourcesConfig(), None) == 8


def test_read_size_off_the_page_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader\.chunk_bytes"):
        choose_io(LoaderConfig(chunk_bytes=1000), None)
