# SPDX-License-Identifier: Apache-2.0
"""Which of a model's ready replicas takes a request: one decision over their numbers, without a loop over them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Floats, Ints
from serverlessllm.orchestrator.placement.decide import Decision, decide
from serverlessllm.orchestrator.placement.filter import FITS
from serverlessllm.orchestrator.placement.terms.failures import failures_s
from serverlessllm.orchestrator.placement.terms.kv import kv_s
from serverlessllm.orchestrator.placement.terms.queue_wait import replica_wait_s


def route(
    num_requests: Floats,
    num_seats: Floats,
    service_s: Floats,
    prompt_s: Floats,
    uncached_tokens: Floats,
    token_s: Floats,
    num_failures: Ints,
    *,
    weights: Mapping[str, float],
    rng: Random,
) -> Decision:
    """Each array has one element per replica; see the terms' own files."""
    rejected = np.full(len(num_requests), FITS, dtype=np.uint8)
    terms_s = {
        "queue": replica_wait_s(num_requests, num_seats, service_s, prompt_s),
        "kv": kv_s(uncached_tokens, token_s),
        "failures": failures_s(num_failures),
    }
    return decide(rejected, terms_s, weights, rng)
