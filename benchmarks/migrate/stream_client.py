# SPDX-License-Identifier: Apache-2.0
"""One streamed request whose client writes down when each id came, in a thread of its own."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

PATIENCE_S = 300.0


class StreamClient:
    """`times_s[i]` is when the event came that brought the stream to `seqs[i]` ids."""

    def __init__(self, url: str, body: Mapping[str, object]) -> None:
        self.times_s: list[float] = []
        self.seqs: list[int] = []
        self.token_ids: list[int] = []
        self.error = ""
        self.is_over = False
        self._changed = threading.Condition()
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        payload = json.dumps({**body, "stream": True})
        self._connection.request("POST", "/v1/completions", payload, {"content-type": "application/json"})
        self._response = self._connection.getresponse()
        if self._response.status != 200:
            raise RuntimeError(f"HTTP {self._response.status}: {self._response.read()[:300]!r}")
        self.request_id = str(self._response.headers["x-request-id"])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait(self, num_tokens: int) -> None:
        """Until so many ids have come. Raises RuntimeError when the stream ends before."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.is_over or (self.seqs and self.seqs[-1] >= num_tokens), PATIENCE_S
            )
        if not done or (self.is_over and (not self.seqs or self.seqs[-1] < num_tokens)):
            raise RuntimeError(f"the stream ended after {self.seqs[-1:]} ids: {self.error}")

    def leave(self) -> None:
        """Close the connection, whatever comes."""
        sock = self._connection.sock
        if sock is not None:
            sock.close()
        self._connection.close()

    def gaps_ms(self, first_seq: int, last_seq: int) -> list[float]:
        """Between the events that end in that range and the ones before them."""
        pairs = zip(self.times_s, self.times_s[1:], self.seqs[1:], strict=False)
        return [(later - earlier) * 1e3 for earlier, later, seq in pairs if first_seq <= seq <= last_seq]

    def _read(self) -> None:
        seq = 0
        try:
            for line in self._response:
                if line.startswith(b"id: "):
                    seq = int(line[4:])
                elif line.startswith(b"data: {"):
                    self._take(json.loads(line[6:]), seq, time.perf_counter())
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            self.error = self.error or str(error)
        finally:
            with self._changed:
                self.is_over = True
                self._changed.notify_all()

    def _take(self, event: Mapping[str, Sequence[Mapping[str, list[int]]]], seq: int, now_s: float) -> None:
        if "error" in event:
            self.error = str(event["error"])
            return
        ids = [token_id for choice in event["choices"] for token_id in choice.get("token_ids", [])]
        if ids:
            with self._changed:
                self.token_ids += ids
                self.times_s.append(now_s)
                self.seqs.append(seq)
                self._changed.notify_all()
