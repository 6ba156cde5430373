# SPDX-License-Identifier: Apache-2.0
"""Rules, dashboards and runbooks as they are shipped: who reads them accepts them, and they fit together."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from deploy.monitoring.dashboards.__main__ import DASHBOARDS, text
from deploy.monitoring.dashboards.model import Dashboard

from serverlessllm.cli.main import cli
from support.monitoring import MONITORING, RULES

RUNBOOKS = MONITORING.parents[1] / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PAGES = sorted({alert["alert"] for alert in ALERTS})


@pytest.mark.parametrize(
    "command",
    [
        "promtool check config prometheus/prometheus.yml",
        "promtool check rules prometheus/recording.yml prometheus/alerts.yml",
        "promtool test rules prometheus/rules_test.yml",
        "amtool check-config alertmanager.yml",
    ],
)
def test_program_that_reads_the_files_accepts_them(command: str) -> None:
    done = subprocess.run(shlex.split(command), cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


def test_every_alert_has_a_test_that_it_fires() -> None:
    tests = yaml.safe_load((RULES / "rules_test.yml").read_text())["tests"]
    fired = {
        check["alertname"]
        for test in tests
        for check in test.get("alert_rule_test", [])
        if check["exp_alerts"]
    }
    assert fired == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_alert_has_a_severity_and_a_runbook_with_commands_that_exist(name: str) -> None:
    for alert in (alert for alert in ALERTS if alert["alert"] == name):
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    page = (RUNBOOKS / f"{name}.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands
    for line in commands + re.findall(r"`(sllm [^`]+)`", page):
        _check_command(line)
    linked = re.findall(r"\]\(([^)#]+)\)", page)
    assert all((RUNBOOKS / target).is_file() for target in linked)
    assert f"({name}.md)" in (RUNBOOKS / "README.md").read_text()


def _check_command(line: str) -> None:
    """The command, its verb and its flags are ours."""
    program, *words = shlex.split(line)
    assert program == "sllm", line
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    assert not isinstance(command, click.Group) or command.invoke_without_command, line
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_dashboard_is_what_its_code_says(dashboard: Dashboard) -> None:
    path = MONITORING / "grafana" / f"{dashboard.uid}.json"
    assert path.read_text() == text(dashboard), "run: python -m deploy.monitoring.dashboards --write"
    assert {file.stem for file in path.parent.glob("*.json")} == {one.uid for one in DASHBOARDS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_panels_fill_the_grid_without_overlap(dashboard: Dashboard) -> None:
    panels = json.loads(text(dashboard))["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_every_series_that_is_asked_for_is_documented() -> None:
    metrics = (Path(RUNBOOKS).parent / "metrics.md").read_text()
    asked = "".join(text(dashboard) for dashboard in DASHBOARDS) + "".join(alert["expr"] for alert in ALERTS)
    names = set(re.findall(r"\b(?:sllm|gen_ai)_[a-z_]+(?=[\[{\s)/\"\\])", asked))
    for name in names:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert f"`{base}`" in metrics or f"`{name}`" in metrics, name
