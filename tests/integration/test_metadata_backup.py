# SPDX-License-Identifier: Apache-2.0
"""Backup and restore as docs/backup.md tells them: what was registered answers again, in any store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serverlessllm.sdk.orchestrator import Client
from support.cluster import Cluster, chat, until_alive
from support.metadata_servers import RedisProcess
from support.model_dirs import write_simulated
from support.platform import Platform


def sllm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serverlessllm.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path / "redis")
    process.start()
    yield process
    process.kill()


def test_platform_answers_from_its_backup_after_its_directory_is_lost(tmp_path: Path) -> None:
    backup, source = tmp_path / "metadata.jsonl", write_simulated(tmp_path / "source")
    with Platform(tmp_path / "old") as platform:
        platform.add("org/m", source)
        done = sllm("metadata", "dump", backup, "--data-dir", platform.home / "d")
        assert done.returncode == 0 and "1 entries" in done.stderr, done.stderr
        shutil.copytree(platform.home / "d" / "artifacts", tmp_path / "artifacts")
    data_dir = tmp_path / "old" / "d"
    for gone in (data_dir, source):
        shutil.rmtree(gone)
    data_dir.mkdir()
    shutil.move(tmp_path / "artifacts", data_dir / "artifacts")
    assert sllm("metadata", "restore", backup, "--data-dir", data_dir).returncode == 0
    with Platform(tmp_path / "old") as platform:
        assert platform.chat("org/m", max_tokens=3).json()["usage"]["completion_tokens"] == 3
        with platform.client() as client:
            assert client.get_model("org/m").state == "ready"


def test_laptops_models_move_to_a_cluster_over_redis(tmp_path: Path, redis: RedisProcess) -> None:
    backup, url = tmp_path / "metadata.jsonl", f"redis://127.0.0.1:{redis.port}"
    with Platform(tmp_path / "laptop") as platform:
        platform.add("m", write_simulated(tmp_path / "source"))
        assert sllm("metadata", "dump", backup, "--data-dir", tmp_path / "laptop" / "d").returncode == 0
    assert sllm("metadata", "restore", backup, "--metadata-url", url).returncode == 0
    with Cluster(tmp_path, url) as cluster:
        front = cluster.orchestrator()
        cluster.agent()
        until_alive(front, 1)
        assert chat(front, "m").status_code == 200


def test_redis_that_lost_its_data_gets_models_and_keys_back(tmp_path: Path, redis: RedisProcess) -> None:
    backup, url = tmp_path / "metadata.jsonl", f"redis://127.0.0.1:{redis.port}"
    with Cluster(tmp_path, url) as cluster:
        front = cluster.orchestrator()
        with Client(front.url) as client:
            client.add_model("m", str(write_simulated(tmp_path / "source")), engine="simulated", wait=True)
            key = client.create_key("ops", "admin").secret
        assert sllm("metadata", "dump", backup, "--metadata-url", url).returncode == 0
        front.stop()
    redis.kill()
    shutil.rmtree(redis.directory)
    redis.start()
    assert sllm("metadata", "restore", backup, "--metadata-url", url).returncode == 0
    with Cluster(tmp_path, url) as cluster, Client(cluster.orchestrator().url, api_key=key) as client:
        assert [model.name for model in client.models()] == ["m"]


def test_restore_writes_nothing_over_and_nothing_of_a_bad_file(tmp_path: Path) -> None:
    backup = tmp_path / "metadata.jsonl"
    with Platform(tmp_path / "p") as platform:
        platform.add("m", write_simulated(tmp_path / "source"))
    data_dir = tmp_path / "p" / "d"
    assert sllm("metadata", "dump", backup, "--data-dir", data_dir).returncode == 0
    again = sllm("metadata", "restore", backup, "--data-dir", data_dir)
    assert again.returncode == 1 and "is in the store already" in again.stderr
    assert sllm("metadata", "restore", backup, "--replace", "--data-dir", data_dir).returncode == 0
    backup.write_text(backup.read_text() + '{"key": "/sllm/v1/agents/a", "value": {}}\n')
    bad = sllm("metadata", "restore", backup, "--data-dir", tmp_path / "fresh")
    assert bad.returncode == 2 and "line 3" in bad.stderr
