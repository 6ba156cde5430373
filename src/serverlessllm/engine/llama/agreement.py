# SPDX-License-Identifier: Apache-2.0
"""What rank 0 drew, on every rank: so all of them append the same ids and retire the same sequences.

Knows no model and no logits.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Final

from serverlessllm.engine.llama.rank_group import RankGroup
from serverlessllm.engine.llama.sequence import Sequence
from serverlessllm.wire.worker import Failed, TokenEvent

Outcome = TokenEvent | Failed
_NO_ID: Final = -1
"""Instead of an id: the sequence failed."""


def agreed(
    group: RankGroup, outcomes: Listing[Outcome] | None, ready: Listing[Sequence], now_s: float
) -> list[Outcome]:
    """The outcome of each sequence in `ready`: on rank 0 `outcomes` themselves, elsewhere (None) made of its ids."""
    drawn = None
    if outcomes is not None:
        drawn = [_NO_ID if isinstance(outcome, Failed) else outcome.token_id for outcome in outcomes]
    token_ids = group.share(drawn, len(ready))
    if outcomes is not None:
        return list(outcomes)
    return [
        Failed("see rank 0", request_id=sequence.request.request_id)
        if token_id == _NO_ID
        else sequence.append(token_id, now_s, None)
        for sequence, token_id in zip(ready, token_ids, strict=True)
    ]
