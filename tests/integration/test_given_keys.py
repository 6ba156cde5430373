# SPDX-License-Identifier: Apache-2.0
"""A platform on all addresses that brings its keys along, as it does in a container."""

from __future__ import annotations

from pathlib import Path

import httpx

from serverlessllm.sdk.orchestrator import Client
from support.platform import Platform

ADMIN = "sk-sllm-" + "a" * 43
NODE = "sk-sllm-" + "n" * 43


def test_platform_on_all_addresses_starts_with_the_keys_it_was_given(tmp_path: Path) -> None:
    env = {"SLLM_KEYS": f"admin={ADMIN},node={NODE}"}
    platform = Platform(tmp_path, env, orchestrator_host="0.0.0.0")
    for _ in range(2):  # the second start finds them in the store
        with platform:
            url = platform.url.replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{url}/v1/models").status_code == 401
            with Client(url, api_key=ADMIN) as client:
                assert sorted(key.name for key in client.list_keys()) == ["given-admin", "given-node"]
            metrics = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {NODE}"})
            assert metrics.status_code == 200
