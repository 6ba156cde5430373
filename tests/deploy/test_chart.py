# SPDX-License-Identifier: Apache-2.0
"""The chart over a matrix of values: linted, rendered, valid by Kubernetes' schemas, settings that we understand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serverlessllm import config
from support.helm_chart import CHART, REPOSITORY, VALUES, Object, helm, named, pod_specs, render

KUBERNETES = "1.33"
FOREIGN = {"monitoring.coreos.com/v1"}
"""Kinds of the Prometheus operator, for which there is no schema here; `test_monitoring_…` looks at them."""
BY_NAME = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


@BY_NAME
def test_chart_is_linted(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout


@BY_NAME
def test_every_object_is_valid_by_the_schema_of_its_kind(values: Path) -> None:
    objects = render(values)
    for item in objects:
        if item["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)


@BY_NAME
def test_every_process_of_ours_understands_its_settings(values: Path, tmp_path: Path) -> None:
    objects = render(values)
    for name, pod in pod_specs(objects):
        for container in pod["containers"]:
            if container["name"] not in ("orchestrator", "ingest", "agent"):
                continue
            path = tmp_path / f"{name}.yaml"
            path.write_text(named(objects, "ConfigMap", name)["data"]["config.yaml"])
            assert config.load(path, env=environment(container)).metadata.url != "sqlite"


def environment(container: Object) -> dict[str, str]:
    """What the container would see; what comes from elsewhere is `given`."""
    return {entry["name"]: str(entry.get("value", "given")) for entry in container["env"]}


@BY_NAME
def test_no_pod_may_more_than_its_values_name(values: Path) -> None:
    pools = yaml.safe_load(values.read_text()).get("agents", {}).get("pools", [])
    privileged = {
        f"r-serverlessllm-agent-{pool['name']}"
        for pool in pools
        if pool.get("privileges", {}).get("hugePages")
    }
    for name, pod in pod_specs(render(values)):
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["capabilities"]["drop"] == ["ALL"] and security["readOnlyRootFilesystem"]
            added = security["capabilities"].get("add", [])
            assert added == (["SYS_ADMIN"] if name in privileged else [])
            assert name in privileged or pod["securityContext"]["runAsNonRoot"] is True
            assert "privileged" not in security


@BY_NAME
def test_pods_live_longer_than_their_streams_may_take_to_end(values: Path) -> None:
    objects = render(values)
    for name, pod in pod_specs(objects):
        if "-redis" in name or "-etcd" in name or name.endswith("-ingest"):
            continue
        settings = yaml.safe_load(named(objects, "ConfigMap", name)["data"]["config.yaml"])
        assert pod["terminationGracePeriodSeconds"] >= settings["stop_grace_s"] + 10


def test_gpu_pool_asks_for_gpus_and_computes_on_them() -> None:
    objects = render(REPOSITORY / "tests" / "deploy" / "values" / "aws.yaml")
    name = "r-serverlessllm-agent-gpu"
    [agent] = named(objects, "DaemonSet", name)["spec"]["template"]["spec"]["containers"]
    assert agent["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert agent["image"].startswith("ghcr.io/serverlessllm/agent-cuda:")
    settings = yaml.safe_load(named(objects, "ConfigMap", name)["data"]["config.yaml"])
    assert settings["engine"] == {"device": "cuda", "max_replicas": 4}
    assert settings["arena"] == {"huge_pages": "always", "budget_bytes": "256GiB"}


def test_charts_copies_of_rules_and_dashboards_are_current() -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "chart_files.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_monitoring_objects_carry_the_committed_rules_and_dashboards() -> None:
    source = REPOSITORY / "deploy" / "monitoring"
    objects = render(REPOSITORY / "tests" / "deploy" / "values" / "aws.yaml")
    rules = named(objects, "PrometheusRule", "r-serverlessllm")["spec"]["groups"]
    committed = [
        group
        for name in ("alerts", "recording")
        for group in yaml.safe_load((source / "prometheus" / f"{name}.yml").read_text())["groups"]
    ]
    assert rules == committed
    for path in (source / "grafana").glob("*.json"):
        board = named(objects, "ConfigMap", f"r-serverlessllm-{path.stem}")
        assert board["data"][path.name] == path.read_text()
    [endpoint] = named(objects, "ServiceMonitor", "r-serverlessllm")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["key"] == "metrics-key"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"artifacts": {"s3": {"url": ""}}}, "url"),
    ({"artifacts": {"s3": {"url": "https://bucket"}}}, "url"),
    ({"orchestrator": {"replicas": 0}}, "replicas"),
    ({"orchestrator": {"replica": 2}}, "replica"),
    ({"orchestrator": {"ingress": {"enabled": True}}}, "hosts"),
    ({"agents": {"pools": []}}, "pools"),
    ({"agents": {"pools": [{"kind": "DaemonSet"}]}}, "name"),
    ({"agents": {"pools": [{"name": "a", "privileges": {"all": True}}]}}, "all"),
    ({"agents": {"pools": [{"name": "a", "shmSize": "10GB"}]}}, "shmSize"),
    ({"agents": {"pools": [{"name": "a", "image": {"digest": "sha256:1"}}]}}, "digest"),
    ({"agents": {"pools": [{"name": "a", "storage": {"kind": "volumeClaim"}}]}}, "needs kind StatefulSet"),
    ({"metadata": {"kind": "etcd", "etcd": {"replicas": 2}}}, "replicas"),
    ({"metadata": {"url": "redis://user:password@host:6379"}}, "url"),
    ({"secrets": {"secret": "written-here"}}, "secret"),
]


@pytest.mark.parametrize(
    ("values", "field"), WRONG, ids=[f"{field}-{n}" for n, (_, field) in enumerate(WRONG)]
)
def test_wrong_values_are_refused_naming_the_field(
    values: dict[str, Any], field: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"artifacts": {"s3": {"url": "s3://models"}}} | values))
    done = helm("template", "r", CHART, "--values", path)
    assert done.returncode != 0 and field in done.stderr
