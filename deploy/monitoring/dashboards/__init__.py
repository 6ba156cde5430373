# SPDX-License-Identifier: Apache-2.0
"""Grafana dashboards as code: `python -m deploy.monitoring.dashboards --write` makes `grafana/*.json` beside this."""
