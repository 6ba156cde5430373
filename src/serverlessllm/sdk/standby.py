# SPDX-License-Identifier: Apache-2.0
"""Client of another agent's `/standby`: what the source of a move sends to its destination.

Every error is an `SllmError`: what the destination sent, or UnreachableError where nothing is known of what it did.
"""

from __future__ import annotations

from typing import Final, TypeVar

import httpx
import msgspec

from serverlessllm.config import TlsConfig
from serverlessllm.errors import UnreachableError, WireError
from serverlessllm.sdk.request import raise_for_error
from serverlessllm.sdk.tls import ClientTls, certificate_error
from serverlessllm.wire.agent import SECRET_HEADER, InferHeaders
from serverlessllm.wire.migrate import (
    CONTENT_TYPE,
    BlocksStored,
    StandbyRound,
    StandbyStatus,
    encode_blocks,
    encode_round,
)

T = TypeVar("T")

ROUND_TIMEOUT: Final = httpx.Timeout(30.0, connect=3.0, pool=3.0)
"""A first round computes a whole prompt, beside the streams that run there."""
GO_TIMEOUT: Final = httpx.Timeout(2.0, connect=1.0, pool=1.0)
"""What the reader waits for."""


class StandbyClient:
    """One destination. Close it with `aclose`."""

    def __init__(self, address: str, secret: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self._http = httpx.AsyncClient(
            base_url=address,
            headers={SECRET_HEADER: secret, "content-type": CONTENT_TYPE},
            timeout=ROUND_TIMEOUT,
            trust_env=False,
            verify=(tls or ClientTls(TlsConfig())).context(address) or False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def open(
        self, move_id: str, headers: InferHeaders, first: StandbyRound, body: bytes
    ) -> StandbyStatus:
        """Have a seat taken for the request."""
        path = f"/standby/{move_id}"
        return await self._send("PUT", path, encode_round(first, body), StandbyStatus, headers.encode())

    async def round(self, move_id: str, sent: StandbyRound) -> StandbyStatus:
        """Returns when the destination has computed the ids."""
        return await self._send("PATCH", f"/standby/{move_id}", encode_round(sent), StandbyStatus)

    async def go(self, move_id: str, last: StandbyRound) -> StandbyStatus:
        """Let it run there."""
        path = f"/standby/{move_id}/go"
        return await self._send("POST", path, encode_round(last), StandbyStatus, timeout=GO_TIMEOUT)

    async def put_blocks(self, move_id: str, digests: list[bytes], blocks: list[bytes]) -> int:
        """Copy blocks there; how many are kept."""
        path, body = f"/standby/{move_id}/blocks", encode_blocks(digests, blocks)
        return (await self._send("POST", path, body, BlocksStored)).num_stored

    async def abort(self, move_id: str) -> StandbyStatus:
        """Give it up, unless it went."""
        return await self._send("DELETE", f"/standby/{move_id}", b"", StandbyStatus, timeout=GO_TIMEOUT)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        kind: type[T],
        headers: dict[str, str] | None = None,
        timeout: httpx.Timeout = ROUND_TIMEOUT,
    ) -> T:
        try:
            response = await self._http.request(method, path, content=body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            refused = certificate_error(error, self.address)
            if refused is not None:
                raise refused from error
            reason = str(error) or type(error).__name__
            raise UnreachableError(
                f"agent {self.address} cannot be reached: {reason}", source="agent"
            ) from error
        raise_for_error(response)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.MsgspecError as error:
            raise WireError(f"{path}: malformed answer: {error}", source="agent") from error
