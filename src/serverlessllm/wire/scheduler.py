# SPDX-License-Identifier: Apache-2.0
"""Bodies of `/admin/scheduler/weights`: how much each term of a placement's score counts. Knows no HTTP, no store."""

from __future__ import annotations

import math

import msgspec

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.openai import field_error


class ScoreWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Factors of the score's terms (docs/placement.md); a term that counts 1 is in expected seconds of TTFT.

    All 0: any agent that fits, at random. What a `PUT` leaves out counts 1.
    """

    w_queue: float = 1.0
    w_load: float = 1.0
    w_kv: float = 1.0
    w_evict: float = 1.0

    def by_term(self) -> dict[str, float]:
        """`queue`, `load`, `kv`, `evict` → factor."""
        return {name.removeprefix("w_"): float(getattr(self, name)) for name in self.__struct_fields__}


def parse_weights(body: bytes) -> ScoreWeights:
    """Decode and check. Raises InvalidRequestError naming the field."""
    try:
        weights = msgspec.json.decode(body, type=ScoreWeights)
    except msgspec.MsgspecError as error:
        raise field_error(error) from error
    except RecursionError as error:
        raise InvalidRequestError("body: nested too deeply") from error
    for name in weights.__struct_fields__:
        value = getattr(weights, name)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidRequestError(f"{name}: must be a finite number ≥ 0", param=name)
    return weights
