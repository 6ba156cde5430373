# SPDX-License-Identifier: Apache-2.0
"""The zygote: imports one engine once, then forks workers that need not import it again.

Single-threaded by design, since a fork copies only the calling thread: it never computes, so no pool of compute
threads exists before a fork. The workers of a group (tensor parallelism) live and die together. The zygote ends with
the agent's end of its control socket; its workers end with it, by the kernel's parent-death signal. Knows no model
and no requests.

Started as `python -m serverlessllm.engine.zygote --engine KIND --control-fd N`.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from serverlessllm.engine.base import EngineFactory, RankEngine, RankSeat
from serverlessllm.engine.follower import follow
from serverlessllm.engine.leader import LeaderEngine
from serverlessllm.engine.process import (
    EXIT_CRASH,
    close_descriptors,
    die_with_parent,
    redirect_output,
    set_process_name,
)
from serverlessllm.engine.rank_link import RankLink
from serverlessllm.engine.registry import engine_kind, load_dtype_choice, load_factory, load_rank_factory
from serverlessllm.engine.worker import serve
from serverlessllm.engine.worker_socket import LOG_NAME, listen_in
from serverlessllm.types import EngineKind
from serverlessllm.wire import WIRE_VERSION
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
    decode_to_zygote,
    encode_packet,
)


@dataclass(frozen=True, slots=True)
class Child:
    """A forked process that was not reaped yet; its pid cannot be reused before that."""

    slot_id: str
    pid: int
    pidfd: int

    def kill(self) -> None:
        """End it now."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


@dataclass(slots=True)
class Family:
    """The processes of one slot: they live and die together. `pid` is the first one's.

    `exit_code` is that of the one that ended first, None while all live.
    """

    pid: int
    children: list[Child]
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """Rank 0's ends of its lines to the other ranks, and theirs, in order of rank from 1 on."""

    ours: list[socket.socket]
    theirs: list[socket.socket]

    @classmethod
    def between(cls, world_size: int, stack: ExitStack) -> Lines:
        """Made before the forks; `stack` closes the zygote's copies."""
        pairs = [socket.socketpair() for _ in range(world_size - 1)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        return cls([ours for ours, _ in pairs], [theirs for _, theirs in pairs])


class Zygote:
    """The loop of one zygote: commands in, forks and reports out."""

    def __init__(self, kind: EngineKind, control: socket.socket, factory: EngineFactory) -> None:
        self._kind = kind
        self._control = control
        self._factory = factory
        self._pid = os.getpid()
        self._families: dict[str, Family] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the agent closes the control socket; then end every child."""
        try:
            while True:
                for key, _ in self._selector.select():
                    if isinstance(key.data, Child):
                        self._reap(key.data)
                    elif not self._obey():
                        return
        except ConnectionError:
            pass  # the agent died while we reported to it
        finally:
            for child in [child for family in self._families.values() for child in family.children]:
                child.kill()
                os.waitpid(child.pid, 0)

    def _obey(self) -> bool:
        """Carry out one command; False at the end of the stream."""
        packet = self._control.recv(MAX_PACKET_BYTES)
        if not packet:
            return False
        match decode_to_zygote(packet):
            case Fork() as command:
                self._fork_worker(command)
            case ChooseDtype() as command:
                self._fork(command.slot_id, f"w-{command.slot_id}", lambda: self._choose_dtype(command))
            case Kill(slot_id=slot_id) if slot_id in self._families:
                self._end(self._families[slot_id])
        return True

    def _end(self, family: Family) -> None:
        for child in family.children:
            child.kill()

    def _fork_worker(self, command: Fork) -> None:
        directory = Path(command.directory)
        try:
            # Bound before the fork, so that the agent may connect as soon as it hears of the worker.
            listener = listen_in(directory)
        except OSError as error:
            self._send(ForkFailed(command.slot_id, f"cannot listen in {directory}: {error}"))
            return
        with listener, ExitStack() as stack:
            lines = Lines.between(command.world_size, stack)
            pids = [self._fork_rank(command, listener, lines, rank) for rank in range(command.world_size)]
        if all(pids):
            self._send(Forked(command.slot_id, pids[0]))
        elif command.slot_id in self._families:
            self._end(self._families[command.slot_id])

    def _fork_rank(self, command: Fork, listener: socket.socket, lines: Lines, rank: int) -> int:
        """As `_fork`."""
        name = f"w-{command.slot_id}" + (f".{rank}" if rank else "")
        if rank == 0:
            return self._fork(command.slot_id, name, lambda: self._work(command, listener, lines))
        return self._fork(command.slot_id, name, lambda: self._work_beside(command, lines, rank))

    def _fork(self, slot_id: str, name: str, child: Callable[[], None]) -> int:
        """Fork a process that runs `child` and ends; returns its pid, or 0 after reporting a failure."""
        try:
            pid = os.fork()
        except OSError as error:
            self._send(ForkFailed(slot_id, f"cannot fork: {error}; the machine lacks memory or processes"))
            return 0
        if pid == 0:
            self._run_child(name, child)
        born = Child(slot_id, pid, os.pidfd_open(pid))
        self._families.setdefault(slot_id, Family(pid, [])).children.append(born)
        self._selector.register(born.pidfd, selectors.EVENT_READ, born)
        return pid

    def _run_child(self, name: str, child: Callable[[], None]) -> NoReturn:
        """The entry point of every forked process; never returns into the zygote's loop."""
        exit_code = EXIT_CRASH
        try:
            die_with_parent(self._pid)
            set_process_name(name)
            child()
            exit_code = 0
        except Exception:
            traceback.print_exc()
        finally:
            # Without interpreter shutdown: compute threads may run, and nothing here outlives the process.
            sys.stderr.flush()
            os._exit(exit_code)

    def _work(self, command: Fork, listener: socket.socket, lines: Lines) -> None:
        self._leave(command, keep=[listener, *lines.ours])
        if command.world_size > 1:
            engine = self._rank_engine(command, 0)
            links = [RankLink(line, rank) for rank, line in enumerate(lines.ours, 1)]
            serve(listener, LeaderEngine(engine, links))
        else:
            serve(
                listener,
                self._factory(command.dtype, command.num_threads, command.device, command.arena_path),
            )

    def _work_beside(self, command: Fork, lines: Lines, rank: int) -> None:
        leader = lines.theirs[rank - 1]
        self._leave(command, keep=[leader])
        follow(leader, self._rank_engine(command, rank))

    def _rank_engine(self, command: Fork, rank: int) -> RankEngine:
        factory = load_rank_factory(self._kind)
        seat = RankSeat(rank, command.world_size, Path(command.directory))
        return factory(command.dtype, command.num_threads, seat)

    def _leave(self, command: Fork, keep: Sequence[socket.socket]) -> None:
        """Become a worker: nothing of the zygote's stays open but `keep`."""
        redirect_output(Path(command.directory) / LOG_NAME)
        self._selector.close()
        self._control.close()
        close_descriptors(keep=[kept.fileno() for kept in keep])
        os.chdir(command.directory)  # what an engine leaves on disk lies there, and goes with the slot

    def _choose_dtype(self, command: ChooseDtype) -> None:
        started_s = time.perf_counter()
        choose = load_dtype_choice(self._kind)
        dtype = "float32" if choose is None else choose(command.num_threads)
        self._send(DtypeChosen(command.slot_id, dtype, (time.perf_counter() - started_s) * 1e3))

    def _reap(self, child: Child) -> None:
        """Of a group, the first end is the end of all, and told when the last one is gone."""
        _, status = os.waitpid(child.pid, 0)
        family = self._families[child.slot_id]
        family.children.remove(child)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if family.exit_code is None:
            family.exit_code = os.waitstatus_to_exitcode(status)
            self._end(family)
        if not family.children:
            del self._families[child.slot_id]
            self._send(Exited(child.slot_id, family.pid, family.exit_code))

    def _send(self, report: FromZygote) -> None:
        self._control.send(encode_packet(report))


SPIN_TURNS: Final = 1000


def _quiet_compute_threads() -> None:
    """Set before the engine is imported: OpenMP reads these when its library loads.

    One thread until a worker asks for more. Threads that wait spin for microseconds, then sleep. Measured on two
    cores, ms for a token alone on a quiet machine / beside one busy process / beside four: never spinning
    30 / 40 / 76; 600 turns 26 / 44; 2000 turns 24 / 55 / 131; libgomp's default 23 / 48 / 652.
    """
    os.environ.update(OMP_NUM_THREADS="1", GOMP_SPINCOUNT=str(SPIN_TURNS), KMP_BLOCKTIME="0")


def main(arguments: Sequence[str] | None = None) -> None:
    """Process entry point. `--control-fd` is an inherited SEQPACKET socket that speaks wire/zygote.py."""
    parser = argparse.ArgumentParser(prog="python -m serverlessllm.engine.zygote", description=__doc__)
    parser.add_argument("--engine", required=True, help="kind of engine: torch, simulated, vllm")
    parser.add_argument("--control-fd", required=True, type=int, help="inherited socket to the agent")
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.control_fd)
    control.set_inheritable(False)
    set_process_name(f"zygote-{options.engine}")
    _quiet_compute_threads()
    started_s = time.perf_counter()
    kind = engine_kind(options.engine)
    factory = load_factory(kind)
    # The imported objects are never collected: without this, the first collection in every worker would
    # touch, and thereby copy, all their pages.
    gc.collect()
    gc.freeze()
    zygote = Zygote(kind, control, factory)
    control.send(encode_packet(Ready(WIRE_VERSION, os.getpid(), (time.perf_counter() - started_s) * 1e3)))
    zygote.run()


if __name__ == "__main__":
    main()
