# SPDX-License-Identifier: Apache-2.0
"""Client of the ingest service: start a job, follow it, end it. Every error is an `SllmError`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

from serverlessllm.config import TlsConfig
from serverlessllm.errors import UnreachableError
from serverlessllm.sdk.request import raise_for_error, segment
from serverlessllm.sdk.tls import ClientTls, certificate_error
from serverlessllm.wire.ingest import SECRET_HEADER, IngestRequest, Job, decode_job

TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
STREAM_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
"""Between two lines: the service sends one every 15 s."""
_DATA: Final = "data: "
_DONE: Final = "data: [DONE]"


class IngestClient:
    """The service at `address` (`http[s]://host:port`). Close it with `aclose`."""

    def __init__(self, address: str, secret: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self._http = httpx.AsyncClient(
            base_url=address,
            headers={SECRET_HEADER: secret},
            timeout=TIMEOUT,
            trust_env=False,
            verify=(tls or ClientTls(TlsConfig())).context(address) or False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ingest(self, request: IngestRequest) -> Job:
        """Start to fetch and convert a source. Raises what the service says of the request."""
        return await self._send("POST", "/ingest", msgspec.json.encode(request))

    async def job(self, job_id: str) -> Job:
        """A job as it stands. Raises NotFoundError when the service does not know it (any more)."""
        return await self._send("GET", _path(job_id))

    async def cancel(self, job_id: str) -> Job:
        """End a job; what it fetched is kept. Raises NotFoundError."""
        return await self._send("DELETE", _path(job_id))

    async def follow(self, job_id: str) -> AsyncGenerator[Job]:
        """The job now and at each change, until it is finished.

        Raises: NotFoundError; UnreachableError when the connection breaks, then follow it again.
        """
        with self._reachable():
            request = self._http.stream("GET", f"{_path(job_id)}/events", timeout=STREAM_TIMEOUT)
            async with request as response:
                if not response.is_success:
                    await response.aread()
                raise_for_error(response)
                async for line in response.aiter_lines():
                    if line == _DONE:
                        return
                    if line.startswith(_DATA):
                        yield decode_job(line.removeprefix(_DATA).encode())
        raise UnreachableError(f"ingest service {self.address} ended the stream early", source="ingest")

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Job:
        headers = {"content-type": "application/json"} if body is not None else {}
        with self._reachable():
            response = await self._http.request(method, path, content=body, headers=headers)
        raise_for_error(response)
        return decode_job(response.content)

    @contextmanager
    def _reachable(self) -> Generator[None]:
        try:
            yield
        except httpx.TransportError as error:
            refused = certificate_error(error, self.address)
            if refused is not None:
                raise refused from error
            reason = str(error) or type(error).__name__
            raise UnreachableError(
                f"ingest service {self.address} cannot be reached: {reason}", source="ingest"
            ) from error


def _path(job_id: str) -> str:
    return f"/jobs/{segment(job_id)}"
