# SPDX-License-Identifier: Apache-2.0
"""What a dashboard is made of, and how Grafana writes it. Knows no metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["timeseries", "stat", "heatmap", "table"]
Unit = Literal["short", "s", "Bps", "bytes", "percentunit", "reqps", "cps"]

SCHEMA_VERSION: Final = 39
"""Grafana 10.4 and later."""
GRID_WIDTH: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
RATE: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how its series are named (`{{label}}`)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`what`: the question that it answers, shown at its corner. `is_stacked`: series add up to a whole."""

    title: str
    what: str
    queries: Sequence[Query]
    unit: Unit = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """`uid` is its address in Grafana and the name of its file. Panels fill rows from left to right."""

    uid: str
    title: str
    panels: Sequence[Panel]

    def as_json(self) -> dict[str, Any]:
        """As Grafana imports it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["serverlessllm"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "",
            "links": [_LINK],
            "templating": {"list": [_DATASOURCES, _MODELS]},
            "annotations": {"list": [_ALERTS]},
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[dict[str, Any]]:
        x = y = row_height = 0
        for number, panel in enumerate(self.panels, 1):
            if x + panel.width > GRID_WIDTH:
                x, y, row_height = 0, y + row_height, 0
            yield _panel_json(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x, row_height = x + panel.width, max(row_height, panel.height)


def _panel_json(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": panel.kind != "table",
                "instant": panel.kind == "table",
                "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
        fill = 40 if panel.is_stacked else 8
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": fill,
            "stacking": stacking,
            "showPoints": "never",
        }
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        legend = {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        }
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "yAxis": {"unit": panel.unit},
            "color": {"scheme": "Oranges", "mode": "scheme"},
        }
    return {"showHeader": True}


_LINK: Final = {
    "type": "dashboards",
    "title": "ServerlessLLM",
    "tags": ["serverlessllm"],
    "asDropdown": True,
    "keepTime": True,
    "includeVars": True,
}
_DATASOURCES: Final = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
}
_MODELS: Final = {
    "name": "model",
    "label": "Model",
    "type": "query",
    "datasource": DATASOURCE,
    "query": "label_values(gen_ai_server_time_to_first_token_seconds_count, model)",
    "refresh": 2,
    "includeAll": True,
    "multi": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
}
_ALERTS: Final = {
    "name": "Alerts",
    "enable": True,
    "iconColor": "red",
    "datasource": DATASOURCE,
    "expr": 'ALERTS{alertname=~"Sllm.*",alertstate="firing"}',
    "titleFormat": "{{alertname}}",
}


def quantile(share: float, metric: str, by: str = "", labels: str = "") -> str:
    """The value below which `share` of a histogram's observations lie, by some of its labels."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({groups}) (rate({metric}_bucket{{{labels}}}[{RATE}])))"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """How fast a counter grows, per second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}[{RATE}]))"


def or_zero(expr: str) -> str:
    """0 where nothing of the kind has happened yet."""
    return f"{expr} or vector(0)"
