# SPDX-License-Identifier: Apache-2.0
"""How long a caller is willing to wait: for the whole answer (`x-request-timeout`), and for its first token
(`x-ttft-timeout`), both in seconds from the request's arrival. Knows no HTTP beyond the two headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from serverlessllm.clock import Clock
from serverlessllm.errors import InvalidRequestError, RequestDeadlineError

REQUEST_TIMEOUT_HEADER: Final = "x-request-timeout"
TTFT_TIMEOUT_HEADER: Final = "x-ttft-timeout"
MAX_TIMEOUT_S: Final = 86_400.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Both as given (`_timeout_s`, None: none), counted from `arrived_s` (monotonic)."""

    arrived_s: float = 0.0
    request_timeout_s: float | None = None
    ttft_timeout_s: float | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], arrived_s: float) -> Deadlines:
        """What the caller sent. Raises InvalidRequestError naming the header."""
        request = headers.get(REQUEST_TIMEOUT_HEADER)
        ttft = headers.get(TTFT_TIMEOUT_HEADER)
        if request is None and ttft is None:
            return NO_DEADLINES
        return cls(arrived_s, _seconds(REQUEST_TIMEOUT_HEADER, request), _seconds(TTFT_TIMEOUT_HEADER, ttft))

    @property
    def first_token_by_s(self) -> float | None:
        """When the first token is to be there (monotonic)."""
        return None if self.ttft_timeout_s is None else self.arrived_s + self.ttft_timeout_s

    def left_ms(self, clock: Clock) -> int:
        """What is left of the request's time, at least 1; 0: it has no end."""
        if self.request_timeout_s is None:
            return 0
        left_s = self.arrived_s + self.request_timeout_s - clock.monotonic_s()
        return max(1, round(left_s * 1e3))

    async def bound(self, work: Awaitable[T], has_begun: Callable[[], bool], clock: Clock) -> T:
        """Await `work`, cancelled when a deadline passes. `has_begun`: whether the first token is there.

        Raises RequestDeadlineError naming the deadline.
        """
        if self is NO_DEADLINES:
            return await work
        loop = asyncio.get_running_loop()
        waited_s = clock.monotonic_s() - self.arrived_s
        left_s = None if self.request_timeout_s is None else max(0.0, self.request_timeout_s - waited_s)
        is_first_late = False
        timer: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(left_s) as scope:
                if self.ttft_timeout_s is not None:

                    def expire() -> None:
                        nonlocal is_first_late
                        if not has_begun():
                            is_first_late = True
                            scope.reschedule(loop.time())

                    timer = loop.call_later(max(0.0, self.ttft_timeout_s - waited_s), expire)
                return await work
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise self._late(is_first_late) from error
        finally:
            if timer is not None:
                timer.cancel()

    def _late(self, is_first_late: bool) -> RequestDeadlineError:
        if is_first_late:
            return RequestDeadlineError(
                f"no token within {self.ttft_timeout_s:g} s ({TTFT_TIMEOUT_HEADER})",
                param=TTFT_TIMEOUT_HEADER,
            )
        return RequestDeadlineError(
            f"the answer was not whole within {self.request_timeout_s:g} s ({REQUEST_TIMEOUT_HEADER})",
            param=REQUEST_TIMEOUT_HEADER,
        )


NO_DEADLINES: Final = Deadlines()


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value_s = float(text)
    except ValueError:
        value_s = 0.0
    if not 0.0 < value_s <= MAX_TIMEOUT_S:
        raise InvalidRequestError(
            f"{name}: {text[:40]!r} is not a number of seconds above 0, at most {MAX_TIMEOUT_S:g}", param=name
        )
    return value_s
