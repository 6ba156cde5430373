# SPDX-License-Identifier: Apache-2.0
"""How long the prompt takes that is not cached there.

kv = uncached prompt tokens · observed seconds per token of a prompt
"""

from __future__ import annotations

from serverlessllm.orchestrator.placement.arrays import Floats


def kv_s(uncached_tokens: Floats, token_s: Floats) -> Floats:
    """Seconds of prefill."""
    return uncached_tokens * token_s
