# SPDX-License-Identifier: Apache-2.0
"""What a placement decision may know: the model's need, and each agent's facts. Values only."""

from __future__ import annotations

from dataclasses import dataclass

CPU_DEVICE_SET = "cpu"


@dataclass(frozen=True, slots=True)
class Need:
    """A model that is called. `nbytes` are its weights, `num_ranks` the devices of one node that it asks for."""

    model: str
    revision: str
    engine: str
    nbytes: int
    num_ranks: int = 1


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """One (agent, device set) at this moment.

    `bytes_per_s` is the observed bandwidth of the tier that the missing bytes come from (0: never observed).
    `queue_s` are the expected seconds of the loads, or requests, before us; `num_failures` loads failed in a row.
    `uncached_prompt_tokens` of the request would be computed there, at `prefill_token_s` seconds each.
    """

    agent_id: str
    device_set: str
    is_alive: bool
    is_drained: bool
    engines: frozenset[str]
    budget_bytes: int
    bytes_missing: int
    bytes_per_s: float
    queue_s: float
    num_failures: int
    uncached_prompt_tokens: int = 0
    prefill_token_s: float = 0.0
    max_num_ranks: int = 1
