# SPDX-License-Identifier: Apache-2.0
"""Command-line flags made from the settings in `config.py`: names, help and defaults cannot disagree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from serverlessllm import config
from serverlessllm.cli.units import setting_text

SHORT: Final = {
    "orchestrator.port": "--port",
    "orchestrator.host": "--host",
    "orchestrator.insecure": "--insecure",
}
"""Settings that people set by hand often, under a name without their section."""


class SettingOption(click.Option):
    """A flag of one setting; its value stays text until `config.load` checks it."""

    def __init__(self, key: str, spec: dataclasses.Field[Any], default: object, *, short: str = "") -> None:
        self.key = key
        self.section = _section(key)
        is_switch = isinstance(default, bool)
        choices = spec.metadata["choices"]
        super().__init__(
            list(_flags(key, is_switch, short)),
            help=f"{spec.metadata['help']} [{setting_text(default, key)}]",
            type=click.Choice(choices) if choices else None,
            metavar=None if is_switch or choices else _metavar(key, default),
            default=None,
        )


def setting_options(*sections: str, short: Mapping[str, str] = SHORT) -> list[click.Option]:
    """One option per setting, in the order of `config.example.yaml`; `sections` alone if any are named.

    Settings without a section are for every process.
    """
    chosen = (
        setting for setting in config.settings() if not sections or _section(setting[0]) in ("", *sections)
    )
    return [SettingOption(*setting, short=short.get(setting[0], "")) for setting in chosen]


def _section(key: str) -> str:
    return key.partition(".")[0] if "." in key else ""


def _flags(key: str, is_switch: bool, short: str) -> Iterator[str]:
    """The Python name, then every spelling: `--arena-budget-bytes`, `--arena.budget-bytes`, a short one."""
    dashed = key.replace("_", "-")
    spellings = dict.fromkeys([short, f"--{dashed.replace('.', '-')}", f"--{dashed}"])
    yield parameter_name(key)
    for flag in filter(None, spellings):
        yield f"{flag}/--no-{flag[2:]}" if is_switch else flag


def parameter_name(key: str) -> str:
    """The keyword under which click passes a setting's value: `arena.budget_bytes` → `arena__budget_bytes`."""
    return key.replace(".", "__")


def _metavar(key: str, default: object) -> str:
    if key.endswith("_bytes"):
        return "SIZE"
    if isinstance(default, float):
        return "SECONDS" if key.endswith("_s") else "NUMBER"
    if isinstance(default, int):
        return "N"
    return "LIST" if isinstance(default, tuple) else "TEXT"


class SettingCommand(click.Command):
    """A command whose `--help` lists the flags of settings by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if not isinstance(parameter, SettingOption):
                title = "Options"
            else:
                title = parameter.section.capitalize() or "Options"
                record = (_short_record(parameter), record[1])
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _short_record(option: SettingOption) -> str:
    """Every spelling works; `--help` shows the shortest and the full one."""
    flags = [flag for flag in option.opts if "." not in flag]
    if option.secondary_opts:
        return ", ".join(flags)
    kind = (
        "[" + "|".join(option.type.choices) + "]" if isinstance(option.type, click.Choice) else option.metavar
    )
    return f"{', '.join(flags)} {kind}"
