# SPDX-License-Identifier: Apache-2.0
"""The agent's side of a zygote: start it, give it commands, hear of exits. Speaks wire/zygote.py.

Knows no slots and no restarts; a zygote that ended stays ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from serverlessllm.engine.process import describe_exit
from serverlessllm.errors import EngineError, WireError
from serverlessllm.types import EngineKind
from serverlessllm.wire.zygote import (
    MAX_PACKET_BYTES,
    ChooseDtype,
    DtypeChosen,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromZygote,
    Kill,
    Ready,
    ToZygote,
    decode_from_zygote,
    encode_packet,
)

READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 10.0
_LOG_TAIL_BYTES: Final = 4096
_log = logging.getLogger(__name__)


def log_tail(path: Path) -> str:
    """The end of a process's log, for an error or a warning; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""


async def _spawn(
    kind: EngineKind, log_path: Path, variables: Mapping[str, str]
) -> tuple[Process, socket.socket]:
    """The process and our end of its control socket."""
    with contextlib.ExitStack() as cleanup:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cleanup.callback(ours.close)
        ours.setblocking(False)
        with theirs, log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "serverlessllm.engine.zygote"),
                *("--engine", kind, "--control-fd", str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **variables},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's ^C reaches the agent alone, which stops us in order
            )
        cleanup.pop_all()
    return process, ours


class ZygoteProcess:
    """One running zygote. `ended` is set when it, and so every child of it, is gone or going."""

    def __init__(
        self,
        kind: EngineKind,
        process: Process,
        control: socket.socket,
        log_path: Path,
        on_exit: Callable[[Exited], None],
    ) -> None:
        """Made by `start`."""
        loop = asyncio.get_running_loop()
        self.kind = kind
        self.pid = process.pid
        self.ended = asyncio.Event()
        self._process = process
        self._control = control
        self._log_path = log_path
        self._on_exit = on_exit
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self._is_ready = False
        self._pending: dict[str, asyncio.Future[int | str]] = {}
        loop.add_reader(control, self._read)

    @classmethod
    async def start(
        cls,
        kind: EngineKind,
        log_path: Path,
        on_exit: Callable[[Exited], None],
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> ZygoteProcess:
        """Start a zygote and wait until it imported its engine. `on_exit` is called for each reaped worker.

        `variables` join the environment that its workers inherit.

        Raises: EngineError with the end of its log when it ends before that.
        """
        try:
            process, control = await _spawn(kind, log_path, variables)
        except OSError as error:
            raise EngineError(f"cannot start the {kind} zygote: {error}", source="agent") from error
        zygote = cls(kind, process, control, log_path, on_exit)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                ready = await zygote._ready
        except BaseException as error:
            await zygote.stop()
            if isinstance(error, TimeoutError):
                raise EngineError(f"the {kind} zygote was not ready in {READY_TIMEOUT_S:.0f} s") from error
            raise
        _log.info("zygote %s (pid %d) imported its engine in %.0f ms", kind, zygote.pid, ready.import_ms)
        return zygote

    @property
    def is_alive(self) -> bool:
        """Whether the zygote lives at this very moment, even if the event loop has not come round to notice.

        The kernel closes a dying zygote's socket before it kills its workers: while this is true, none of them
        is dying with it. One system call.
        """
        if self.ended.is_set():
            return False
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    async def fork(self, command: Fork) -> int:
        """Fork a worker; its socket accepts connections when this returns its pid. Raises EngineError."""
        pid = await self._ask(command.slot_id, command)
        return int(pid)

    async def choose_dtype(self, command: ChooseDtype) -> str:
        """Measure, in a child, which dtype computes faster here. Raises EngineError."""
        return str(await self._ask(command.slot_id, command))

    def kill(self, slot_id: str) -> None:
        """End a worker now; `on_exit` follows. Nothing happens when it or the zygote is gone."""
        self._send(Kill(slot_id))

    async def stop(self) -> None:
        """End the zygote and all its workers; returns when the zygote was reaped, which reaps them first."""
        if not self._is_ready:
            self._kill()  # it has no workers yet, and would first finish its import
        self._close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            _log.warning("zygote %s (pid %d) does not stop; killing it", self.kind, self.pid)
            self._kill()
            await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _ask(self, slot_id: str, command: ToZygote) -> int | str:
        answer: asyncio.Future[int | str] = asyncio.get_running_loop().create_future()
        self._pending[slot_id] = answer
        try:
            self._send(command)
            return await answer
        finally:
            self._pending.pop(slot_id, None)

    def _send(self, command: ToZygote) -> None:
        if self.ended.is_set():
            self._fail_pending()
            return
        try:
            self._control.send(encode_packet(command))
        except BlockingIOError as error:
            # Hundreds of unanswered commands: only a zygote that hangs lets them pile up.
            raise EngineError(f"the {self.kind} zygote (pid {self.pid}) does not answer") from error
        except ConnectionError:
            self._close()

    def _read(self) -> None:
        try:
            packet = self._control.recv(MAX_PACKET_BYTES)
            if packet:
                self._on_report(decode_from_zygote(packet))
                return
        except BlockingIOError:
            return
        except (ConnectionError, WireError) as error:
            _log.error("zygote %s (pid %d): %s", self.kind, self.pid, error)
        self._close()

    def _on_report(self, report: FromZygote) -> None:
        match report:
            case Ready():
                self._is_ready = True
                if not self._ready.done():
                    self._ready.set_result(report)
            case Forked(slot_id=slot_id, pid=pid):
                self._answer(slot_id, pid)
            case DtypeChosen(slot_id=slot_id, dtype=dtype, measure_ms=measure_ms):
                _log.info("%s computes fastest in %s (measured in %.0f ms)", self.kind, dtype, measure_ms)
                self._answer(slot_id, dtype)
            case ForkFailed(slot_id=slot_id, message=message):
                self._answer(slot_id, EngineError(message))
            case Exited(slot_id=slot_id, exit_code=exit_code):
                self._answer(slot_id, EngineError(f"{slot_id} {describe_exit(exit_code)}"))
                self._on_exit(report)

    def _answer(self, slot_id: str, result: int | str | EngineError) -> None:
        waiting = self._pending.get(slot_id)
        if waiting is None or waiting.done():
            return
        if isinstance(result, EngineError):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)

    def _close(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._fail_pending()
        if not self._ready.done():
            self._ready.set_exception(
                EngineError(f"the {self.kind} engine cannot start: {log_tail(self._log_path) or 'no output'}")
            )

    def _fail_pending(self) -> None:
        for slot_id in self._pending:
            self._answer(slot_id, EngineError(f"the {self.kind} zygote (pid {self.pid}) ended"))
