# SPDX-License-Identifier: Apache-2.0
"""How long a first token would take on an agent, in expected seconds of TTFT; smaller is better.

score    = w_queue·queue + w_load·load + w_kv·kv + w_failures·failures
queue    = seconds of the loads that are before it on that agent, or of the requests at a replica that is ready
load     = bytes_missing / observed bandwidth
kv       = uncached prompt tokens · observed seconds per token of a prompt
failures = 0.5·2^(failures in a row), at most 30: who fails fast must not look idle
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serverlessllm.orchestrator.placement.facts import AgentFacts

DEFAULT_WEIGHTS: Final[Mapping[str, float]] = {"queue": 1.0, "load": 1.0, "kv": 1.0, "failures": 1.0}
UNOBSERVED_BYTES_PER_S: Final = 1e9
"""Assumed until the first transfer was seen: an ordinary NVMe device."""
MAX_FAILURE_S: Final = 30.0


def terms(facts: AgentFacts) -> dict[str, float]:
    """Expected seconds by reason, before weighting."""
    bandwidth = facts.bytes_per_s if facts.bytes_per_s > 0 else UNOBSERVED_BYTES_PER_S
    failures_s = min(MAX_FAILURE_S, 0.5 * 2.0 ** min(facts.num_failures, 10)) if facts.num_failures else 0.0
    return {
        "queue": facts.queue_s,
        "load": facts.bytes_missing / bandwidth,
        "kv": facts.uncached_prompt_tokens * facts.prefill_token_s,
        "failures": failures_s,
    }


def score(terms_s: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted sum; a term without a weight counts once."""
    return sum(weights.get(name, 1.0) * seconds for name, seconds in terms_s.items())
