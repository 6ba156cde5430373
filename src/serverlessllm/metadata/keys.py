# SPDX-License-Identifier: Apache-2.0
"""Names of the metadata store's keys, all under `/sllm/v1/`. Pure; knows no values and no store.

Every variable part is one segment: what is not a letter, digit, `.`, `_`, `-` or `~` is percent-encoded, so that
the placements of `a` are not a prefix of those of `a/b`. The schema is described in `docs/metadata.md`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

ROOT: Final = "/sllm/v1/"


class Keys:
    """One function per kind of key, and the prefix under which all of that kind lie."""

    MODELS: Final = f"{ROOT}models/"
    ARTIFACTS: Final = f"{ROOT}artifacts/"
    AGENTS: Final = f"{ROOT}agents/"
    PLACEMENTS: Final = f"{ROOT}placements/"
    TENANTS: Final = f"{ROOT}tenants/"
    API_KEYS: Final = f"{ROOT}keys/"
    DRAINED: Final = f"{ROOT}drained/"
    LEADER: Final = f"{ROOT}leader"
    SCHEDULER_WEIGHTS: Final = f"{ROOT}scheduler/weights"

    @staticmethod
    def model(name: str) -> str:
        """A registered model."""
        return Keys.MODELS + _segment(name)

    @staticmethod
    def artifact(revision: str) -> str:
        """A converted checkpoint."""
        return Keys.ARTIFACTS + _segment(revision)

    @staticmethod
    def agent(agent_id: str) -> str:
        """A node's daemon; leased."""
        return Keys.AGENTS + _segment(agent_id)

    @staticmethod
    def drained(agent_id: str) -> str:
        """An agent that takes nothing new."""
        return Keys.DRAINED + _segment(agent_id)

    @staticmethod
    def placements(model: str) -> str:
        """The prefix of one model's placements."""
        return f"{Keys.PLACEMENTS}{_segment(model)}/"

    @staticmethod
    def placement(model: str, replica: str) -> str:
        """One replica of a model."""
        return Keys.placements(model) + _segment(replica)

    @staticmethod
    def tenant(tenant_id: str) -> str:
        """Who pays."""
        return Keys.TENANTS + _segment(tenant_id)

    @staticmethod
    def api_key(key_hash: str) -> str:
        """An API key, by the hash of its text."""
        return Keys.API_KEYS + _segment(key_hash)

    @staticmethod
    def last_segment(key: str) -> str:
        """What the last variable part of a key stands for: the model's name, the agent's id, …"""
        return unquote(key.rsplit("/", 1)[-1])


def _segment(text: str) -> str:
    return quote(text, safe="")
