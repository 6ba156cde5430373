# SPDX-License-Identifier: Apache-2.0
"""Which agents can take a model at all. The order is that of the answer a user needs: no engine before no room.

alive   the agent's event stream is up
drained the agent was told to take nothing new
engine  the agent runs the model's engine
ranks   the agent's device sets have as many devices as the model asks for: one model is never on several nodes
memory  the model's bytes fit the agent's whole budget (not: what is free now, that is eviction's business)
"""

from __future__ import annotations

from typing import Literal

from serverlessllm.orchestrator.placement.facts import AgentFacts, Need

Reason = Literal["excluded", "alive", "drained", "engine", "ranks", "memory"]
"""`excluded`: it refused or failed this very wake-up before."""


def reject(need: Need, facts: AgentFacts, excluded: frozenset[str]) -> Reason | None:
    """The first filter that drops this agent, None if it may take the model."""
    if facts.agent_id in excluded:
        return "excluded"
    if not facts.is_alive:
        return "alive"
    if facts.is_drained:
        return "drained"
    if need.engine not in facts.engines:
        return "engine"
    if need.num_ranks > facts.max_num_ranks:
        return "ranks"
    if need.nbytes > facts.budget_bytes:
        return "memory"
    return None
