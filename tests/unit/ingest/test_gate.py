# SPDX-License-Identifier: Apache-2.0
"""Who may call the ingest service."""

from __future__ import annotations

import pytest

from serverlessllm.errors import AuthenticationError, PermissionDeniedError, SllmError
from serverlessllm.ingest.gate import Gate
from serverlessllm.types import Role
from serverlessllm.wire.ingest import SECRET_HEADER


class _Keys:
    """Three keys, named after their roles."""

    async def role(self, plaintext: str) -> Role | None:
        roles: dict[str, Role] = {"infer": "infer", "admin": "admin", "node": "node"}
        return roles.get(plaintext)


@pytest.mark.parametrize(
    "headers",
    [{SECRET_HEADER: "s"}, {"Authorization": "Bearer node"}, {"Authorization": "bearer admin"}],
)
async def test_secret_and_keys_of_nodes_and_admins_are_let_in(headers: dict[str, str]) -> None:
    await Gate("s", _Keys()).check(headers)


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, AuthenticationError),
        ({SECRET_HEADER: "wrong"}, AuthenticationError),
        ({SECRET_HEADER: "\udcff"}, AuthenticationError),
        ({"Authorization": "Bearer nobody"}, AuthenticationError),
        ({"Authorization": "Basic admin"}, AuthenticationError),
        ({"Authorization": "Bearer "}, AuthenticationError),
        ({"Authorization": "Bearer infer"}, PermissionDeniedError),
    ],
)
async def test_others_are_refused(headers: dict[str, str], refusal: type[SllmError]) -> None:
    with pytest.raises(refusal):
        await Gate("s", _Keys()).check(headers)


async def test_service_without_keys_takes_the_secret_alone() -> None:
    with pytest.raises(AuthenticationError):
        await Gate("s").check({"Authorization": "Bearer admin"})


def test_empty_secret_would_let_everyone_in() -> None:
    with pytest.raises(ValueError, match="secret"):
        Gate("")
