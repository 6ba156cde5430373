# SPDX-License-Identifier: Apache-2.0
"""Salts of tenants."""

from __future__ import annotations

from serverlessllm.orchestrator.cache_salts import CacheSalts


def test_salt_is_one_per_tenant_and_cluster_and_stays() -> None:
    salts = CacheSalts("secret")
    assert salts.of("a") == CacheSalts("secret").of("a")
    assert len({salts.of("a"), salts.of("b"), CacheSalts("other").of("a")}) == 3


def test_salt_tells_neither_tenant_nor_secret() -> None:
    salt = CacheSalts("secret").of("acme")
    assert len(salt) == 32 and "acme" not in salt and "secret" not in salt
