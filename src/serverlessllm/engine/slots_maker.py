# SPDX-License-Identifier: Apache-2.0
"""Births and deaths of the workers of one engine kind: keeps a zygote alive, makes slots, cleans up after them.

    zygote     make                is_ready
    starting   EngineError         False: importing, or measuring the dtype
    running    forks a worker      True
    ended      EngineError         False: all its workers died with it; restarted after a growing delay

Knows no queue: who gets which slot is the pool's business (slots_kind.py).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from serverlessllm.config import EngineConfig
from serverlessllm.engine.process import describe_exit
from serverlessllm.engine.registry import ENGINES
from serverlessllm.engine.slot import Slot
from serverlessllm.engine.slots_profile import machine_key
from serverlessllm.engine.vllm_server.environment import VARIABLE as VLLM_VARIABLE
from serverlessllm.engine.worker_socket import LOG_NAME
from serverlessllm.engine.zygote_process import ZygoteProcess, log_tail
from serverlessllm.errors import EngineError, SllmError
from serverlessllm.node_profile import NodeProfile
from serverlessllm.types import EngineKind
from serverlessllm.wire.zygote import ChooseDtype, Exited, Fork

MIN_RESTART_DELAY_S: Final = 0.1
MAX_RESTART_DELAY_S: Final = 10.0
STEADY_S: Final = 30.0
"""A zygote that lived this long starts the next delay from the shortest again."""
LAST_BREATH_S: Final = 5.0
"""How long a worker of a dead zygote may take to vanish; the kernel kills it at once."""

_log = logging.getLogger(__name__)


class PoolEvents(Protocol):
    """What a maker tells its pool."""

    def on_ready(self) -> None:
        """Slots can be made now."""

    def on_failed(self, error: EngineError) -> None:
        """The zygote could not start; it is tried again later."""

    def on_gone(self, slot_id: str) -> None:
        """The worker's process has ended and left nothing behind."""


@dataclass(slots=True)
class _Life:
    """One worker process from the fork to its burial. `last_words`: the end of its log."""

    directory: Path
    slot: Slot | None = None
    is_ending: bool = False
    last_words: str = ""
    buried: asyncio.Event = field(default_factory=asyncio.Event)

    def make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700)
        except OSError as error:
            raise EngineError(f"cannot make a worker's directory: {error}", source="agent") from error


class SlotMaker:
    """One zygote, again and again, and the workers that it forks."""

    def __init__(
        self,
        kind: EngineKind,
        run_dir: Path,
        config: EngineConfig,
        events: PoolEvents,
        arena_path: Path | None = None,
    ) -> None:
        self.kind = kind
        self._device = config.device if ENGINES[kind].devices else "cpu"
        self._arena_path = "" if arena_path is None else str(arena_path)
        self.dtype: str | None = None
        self.num_restarts = 0
        self._run_dir = run_dir
        self._log_path = run_dir / f"zygote-{kind}.log"
        self._config = config
        self._events = events
        self._num_threads = config.threads or len(os.sched_getaffinity(0))
        self._zygote: ZygoteProcess | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._lives: dict[str, _Life] = {}
        self._serial = itertools.count(1)

    @property
    def is_ready(self) -> bool:
        """Whether `make` can fork now, and no worker is dying with its zygote."""
        return self._zygote is not None and self._zygote.is_alive

    @property
    def zygote_pid(self) -> int | None:
        """The running zygote, or None."""
        return self._zygote.pid if self._zygote is not None and self._zygote.is_alive else None

    def start(self) -> None:
        """Begin to keep a zygote alive; `on_ready` follows."""
        self._supervision = asyncio.create_task(self._supervise(), name=f"zygote-{self.kind}")

    async def stop(self) -> None:
        """End the zygote and every worker; returns when none is left, nor any file of theirs."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        self._log_path.unlink(missing_ok=True)

    async def make(self, world_size: int = 1) -> Slot:
        """Fork a worker, or a group of them, and wait until it is primed. Raises: EngineError with its last words."""
        zygote = self._zygote
        if zygote is None or self.dtype is None:
            raise EngineError(f"the {self.kind} zygote is not running", source="agent")
        slot_id = f"{self.kind}-{next(self._serial)}"
        life = _Life(self._run_dir / slot_id)
        self._lives[slot_id] = life
        try:
            life.make_directory()
            pid = await zygote.fork(self._fork(slot_id, life.directory, self.dtype, world_size))
        except EngineError:
            self._bury(slot_id)
            raise
        try:
            life.slot = Slot(slot_id, self.kind, pid, life.directory)
            await life.slot.greet()
        except SllmError as error:
            zygote.kill(slot_id)
            await life.buried.wait()
            detail = life.last_words or error.message
            raise EngineError(f"no {self.kind} worker could be made: {detail}") from error
        return life.slot

    def _fork(self, slot_id: str, directory: Path, dtype: str, world_size: int) -> Fork:
        num_threads = max(1, self._num_threads // world_size)
        return Fork(slot_id, str(directory), dtype, num_threads, self._device, self._arena_path, world_size)

    async def end(self, slot: Slot) -> None:
        """Kill a worker; returns when its process, its pin on the arena and its files are gone. Idempotent."""
        life = self._lives.get(slot.slot_id)
        slot.close()
        if life is None:
            return
        life.is_ending = True
        if self._zygote is not None:
            self._zygote.kill(slot.slot_id)
        await life.buried.wait()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = MIN_RESTART_DELAY_S
        while True:
            started_s = loop.time()
            try:
                await self._run_zygote()
            except EngineError as error:
                _log.error("%s", error)
                self._events.on_failed(error)
            if loop.time() - started_s > STEADY_S:
                delay_s = MIN_RESTART_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MAX_RESTART_DELAY_S)
            self.num_restarts += 1

    async def _run_zygote(self) -> None:
        """One zygote from its start to its end."""
        zygote = await ZygoteProcess.start(
            self.kind, self._log_path, self._on_exit, {VLLM_VARIABLE: self._config.vllm_environment}
        )
        try:
            self.dtype = self.dtype or await self._resolve_dtype(zygote)
            self._zygote = zygote
            self._events.on_ready()
            await zygote.ended.wait()
            _log.error("the %s zygote (pid %d) ended; its workers are lost", self.kind, zygote.pid)
        finally:
            self._zygote = None
            await zygote.stop()
            await self._bury_all()

    async def _resolve_dtype(self, zygote: ZygoteProcess) -> str:
        """The configured dtype, or for `auto` what this machine runs faster: measured once, then remembered."""
        if self._config.dtype != "auto":
            return self._config.dtype
        if ENGINES[self.kind].dtype_choice is None:
            return ENGINES[self.kind].auto_dtype
        if self._device != "cpu":
            return "bfloat16"
        profile = NodeProfile(self._run_dir.parent)
        key = machine_key(self.kind, self._num_threads)
        dtype = profile.dtype(key)
        if dtype is None:
            try:
                dtype = await zygote.choose_dtype(ChooseDtype(f"{self.kind}-dtype", self._num_threads))
                profile.put_dtype(key, dtype)
            except (EngineError, OSError) as error:
                _log.warning("cannot measure or remember the faster dtype, using float32: %s", error)
                return dtype or "float32"
        return dtype

    def _on_exit(self, report: Exited) -> None:
        life = self._lives.get(report.slot_id)
        if life is None:
            return  # the child that measured the dtype
        self._bury(report.slot_id)
        if life.is_ending or report.exit_code == 0:  # we ended it, hung up on it, or its attach failed
            return
        _log.warning(
            "worker %s (pid %d) %s%s",
            report.slot_id,
            report.pid,
            describe_exit(report.exit_code),
            f"; its log ends:\n{life.last_words}" if life.last_words else "",
        )

    def _bury(self, slot_id: str) -> None:
        life = self._lives.pop(slot_id, None)
        if life is None:
            return
        life.last_words = log_tail(life.directory / LOG_NAME)
        shutil.rmtree(life.directory, ignore_errors=True)
        life.buried.set()
        self._events.on_gone(slot_id)

    async def _bury_all(self) -> None:
        """After the zygote's end: its workers die with it; wait until their connections say so."""
        for slot_id, life in list(self._lives.items()):
            if life.slot is not None:
                try:
                    async with asyncio.timeout(LAST_BREATH_S):
                        await life.slot.lost.wait()
                except TimeoutError:
                    _log.error("worker %s (pid %d) outlives its zygote", slot_id, life.slot.pid)
                    life.slot.close()
            self._bury(slot_id)
