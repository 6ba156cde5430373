# SPDX-License-Identifier: Apache-2.0
"""Client of the ingest service: start a conversion, look at it. Every error is an `SllmError`."""

from __future__ import annotations

from typing import Final

import httpx
import msgspec

from serverlessllm.errors import UnreachableError
from serverlessllm.sdk.request import raise_for_error
from serverlessllm.wire.ingest import SECRET_HEADER, IngestRequest, Job, decode_job

TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)


class IngestClient:
    """The service at `address` (`http://host:port`). Close it with `aclose`."""

    def __init__(self, address: str, secret: str) -> None:
        self.address = address
        self._http = httpx.AsyncClient(
            base_url=address, headers={SECRET_HEADER: secret}, timeout=TIMEOUT, trust_env=False
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ingest(self, request: IngestRequest) -> Job:
        """Start to fetch and convert a source. Raises what the service says of the source."""
        return await self._send("POST", "/ingest", msgspec.json.encode(request))

    async def job(self, job_id: str) -> Job:
        """A job as it stands. Raises NotFoundError when the service does not know it (any more)."""
        return await self._send("GET", f"/jobs/{job_id}")

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Job:
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            response = await self._http.request(method, path, content=body, headers=headers)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(
                f"ingest service {self.address} cannot be reached: {reason}", source="ingest"
            ) from error
        raise_for_error(response)
        return decode_job(response.content)
