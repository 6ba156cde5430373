# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus and a real Alertmanager for tests, with the repository's rules, and a webhook that they call.

The rules' windows are made for weeks. Tests run a copy of them in which every duration is a sixtieth, a start is late
after half a second and a node after six: made from the committed files, so that what is tested is what is shipped.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from support.metadata_servers import ServerProcess

MONITORING: Final = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
RULES: Final = MONITORING / "prometheus"
SHORTER: Final = 60
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def shortened(rules: str) -> str:
    """The rules in a sixtieth of their time. Names of recorded series keep theirs."""

    def window(match: re.Match[str]) -> str:
        duration_ms = int(match[2]) * _UNITS_MS[match[3]] // SHORTER
        return f"{match[1]}{max(1, duration_ms)}ms{match[4]}"

    rules = re.sub(r"(\[)(\d+)([smhd])(\])", window, rules)
    rules = re.sub(r"(for: )(\d+)([smhd])(\n)", window, rules)
    return rules.replace('le="10.0"', 'le="0.5"').replace("age_seconds) > 15", "age_seconds) > 6")


class Prometheus(ServerProcess):
    """Scrapes `targets` (job → addresses) each second; alerts go to `alertmanager_port`."""

    def __init__(self, directory: Path, targets: Mapping[str, Sequence[str]], alertmanager_port: int) -> None:
        super().__init__("prometheus", directory)
        directory.mkdir(parents=True)
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [
            f"127.0.0.1:{alertmanager_port}"
        ]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        for name in config["rule_files"]:
            (directory / name).write_text(shortened((RULES / name).read_text()))

    def argv(self) -> list[str]:
        """Loopback, a store of its own."""
        return [
            self.program,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def is_ready(self) -> bool:
        """`/-/ready`."""
        return _answers(f"http://127.0.0.1:{self.port}/-/ready")

    def query(self, expr: str) -> list[float]:
        """The values of an instant query; NaN is none."""
        reply = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/query", params={"query": expr}).json()
        assert reply["status"] == "success", f"{expr}: {reply}"
        values = [float(series["value"][1]) for series in reply["data"]["result"]]
        return [value for value in values if value == value]


class Alertmanager(ServerProcess):
    """Sends what fires, and what does no longer, to `webhook` at once."""

    def __init__(self, directory: Path, webhook: str) -> None:
        super().__init__("prometheus-alertmanager", directory)
        directory.mkdir(parents=True)
        config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
        config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        for receiver in config["receivers"]:
            receiver["webhook_configs"][0]["url"] = f"{webhook}/{receiver['name']}"
        (directory / "alertmanager.yml").write_text(yaml.safe_dump(config))

    def argv(self) -> list[str]:
        """Loopback, alone."""
        return [
            self.program,
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def is_ready(self) -> bool:
        """`/-/ready`."""
        return _answers(f"http://127.0.0.1:{self.port}/-/ready")


class Webhook:
    """Keeps (receiver, status, labels) of every alert that it is told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def has(self, status: str, alertname: str, **labels: str) -> bool:
        """Whether such an alert was told of, as `firing` or `resolved`."""
        wanted = {"alertname": alertname, **labels}
        return any(told == status and wanted.items() <= found.items() for _, told, found in self.told)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in document["alerts"]:
                    told.append((self.path[1:], alert["status"], alert["labels"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
