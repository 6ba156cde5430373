# SPDX-License-Identifier: Apache-2.0
"""Settings: precedence, checks, and messages that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.config import Config, environment, load, parse_bytes, settings
from serverlessllm.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "orchestrator: {port: 1, keep_alive_s: 1, hold_timeout_s: 1}\n")
    env = {"SLLM_ORCHESTRATOR_PORT": "2", "SLLM_ORCHESTRATOR_KEEP_ALIVE_S": "2"}
    config = load(file, env=env, flags={"orchestrator.port": 3})
    found = config.orchestrator
    assert (found.port, found.keep_alive_s, found.hold_timeout_s) == (3, 2.0, 1.0)
    assert found.hold_silently_s == Config().orchestrator.hold_silently_s


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("arena: {budget_byte: 1}", "arena.budget_byte"),
        ("nonsense: 1", "nonsense"),
        ("arena: 7", "arena"),
        ("orchestrator: {port: 70000}", "orchestrator.port"),
        ("orchestrator: {port: true}", "orchestrator.port"),
        ("orchestrator: {port: [1]}", "orchestrator.port"),
        ("orchestrator: {hold_timeout_s: .nan}", "orchestrator.hold_timeout_s"),
        ("engine: {dtype: float8}", "engine.dtype"),
        ("arena: {budget_bytes: 4 GiBs}", "arena.budget_bytes"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "c.yaml", text), env={})
    assert caught.value.param == key
    assert key in caught.value.message


def test_a_misspelt_key_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'SLLM_ENGINE_SLOTS'"):
        load(env={"SLLM_ENGINE_SLOT": "1"})


@pytest.mark.parametrize("text", ["- a", "a: [", "\x00", "text"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(write(tmp_path / "c.yaml", text), env={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        load(tmp_path / "gone.yaml", env={})


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1", 1), ("512MiB", 512 << 20), ("4 GiB", 4 << 30), ("2GB", 2_000_000_000), ("0.5kib", 512)],
)
def test_sizes_take_suffixes(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes
    assert load(env={"SLLM_ARENA_BUDGET_BYTES": text}).arena.budget_bytes == nbytes


def test_every_setting_is_explained_and_its_default_is_valid() -> None:
    for key, spec, default in settings():
        assert spec.metadata["help"].endswith("."), key
        assert load(env={}, flags={key: default}) == Config(), key


def test_reserved_variables_are_not_settings() -> None:
    env = {"SLLM_URL": "http://x", "SLLM_API_KEY": "", "SLLM_CONFIG": "f"}
    assert load(env=env) == Config()
    assert environment("SLLM_URL", env) == "http://x"
    assert environment("SLLM_API_KEY", env) is None
