# SPDX-License-Identifier: Apache-2.0
"""The flags of `sllm serve`: one per setting, above environment and file."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from serverlessllm.cli.serve import effective_config, serve
from serverlessllm.cli.setting_options import parameter_name, setting_options
from serverlessllm.config import MIB, Config, settings
from serverlessllm.errors import ConfigError


def _config(*arguments: str) -> Config:
    context = serve.make_context("serve", list(arguments))
    flags = {name: value for name, value in context.params.items() if name not in ("config_path", "as_json")}
    return effective_config(context.params["config_path"], flags)


def test_every_setting_has_one_flag_in_both_spellings() -> None:
    options = {option.name: option for option in setting_options()}
    for key, _, _ in settings():
        spelled = f"--{key.replace('_', '-')}"
        flags = options[parameter_name(key)].opts
        assert spelled in flags and spelled.replace(".", "-") in flags


@pytest.mark.parametrize(
    "arguments",
    [
        ("--arena.budget-bytes", "64MiB"),
        ("--arena-budget-bytes=64MiB",),
        ("--arena-budget-bytes", "67108864"),
    ],
)
def test_sizes_take_suffixes_in_either_spelling(arguments: tuple[str, ...]) -> None:
    assert _config(*arguments).arena.budget_bytes == 64 * MIB


def test_short_flags_set_the_front(tmp_path: Path) -> None:
    config = _config("--port", "0", "--host", "::1", "--insecure", "--data-dir", str(tmp_path))
    front = config.orchestrator
    assert (front.port, front.host, front.insecure, config.data_dir) == (0, "::1", True, str(tmp_path))


def test_flag_beats_environment_and_environment_beats_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("engine: {slots: 5, threads: 5}\nloader: {threads: 5}\n")
    monkeypatch.setenv("SLLM_CONFIG", str(file))
    monkeypatch.setenv("SLLM_ENGINE_THREADS", "6")
    monkeypatch.setenv("SLLM_LOADER_THREADS", "6")
    config = _config("--loader-threads", "7")
    assert (config.engine.slots, config.engine.threads, config.loader.threads) == (5, 6, 7)


def test_value_out_of_range_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"loader\.threads: 65 is out of range"):
        _config("--loader-threads", "65")


def test_choice_that_is_none_is_refused_by_the_parser() -> None:
    with pytest.raises(click.BadParameter, match="never"):
        _config("--arena-huge-pages", "perhaps")


def test_help_lists_the_flags_by_section() -> None:
    text = serve.get_help(click.Context(serve, info_name="serve"))
    sections = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == [
        "Options:",
        "Orchestrator:",
        "Agent:",
        "Arena:",
        "Loader:",
        "Engine:",
        "Ingest:",
        "Sources:",
        "Metadata:",
        "Tls:",
        "Telemetry:",
    ]
