# SPDX-License-Identifier: Apache-2.0
"""Which run of which request `GET` and `DELETE /infer/{request_id}` of an agent mean."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from serverlessllm.wire.agent import HOP_HEADER, SEED_HEADER, TENANT_HEADER, number_header, text_header


class RunName(msgspec.Struct, frozen=True):
    """The tenant belongs to the name: nobody reads or ends another's answer.

    `DELETE` ends the runs of `seed` up to `hop`, those that are still to come included. `GET` takes whatever runs
    under the name where `seed` is 0, else that request's run only.
    """

    tenant: str
    request_id: str
    seed: int = 0
    hop: int = 0

    def encode(self) -> dict[str, str]:
        """As HTTP headers; the request id is in the path."""
        return {TENANT_HEADER: self.tenant, SEED_HEADER: str(self.seed), HOP_HEADER: str(self.hop)}

    @classmethod
    def decode(cls, request_id: str, headers: Mapping[str, str]) -> RunName:
        """Raises WireError naming the header that is missing or malformed."""
        numbers = [
            number_header(headers, name) if name in headers else 0 for name in (SEED_HEADER, HOP_HEADER)
        ]
        return cls(text_header(headers, TENANT_HEADER), request_id, *numbers)


class CancelResult(msgspec.Struct, frozen=True):
    """Of `DELETE`. `cancelled` False: no such run is here; one that comes later is refused."""

    cancelled: bool
