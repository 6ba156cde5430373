# SPDX-License-Identifier: Apache-2.0
"""The zygote: imports one engine once, then forks workers that need not import it again.

Single-threaded by design, since a fork copies only the calling thread: it never computes, so no pool of compute
threads exists before a fork. It ends with the agent's end of its control socket; its workers end with it, by
the kernel's parent-death signal. Knows no model and no requests.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from serverlessllm.engine.base import EngineFactory
from serverlessllm.engine.process import (
    EXIT_CRASH,
    close_descriptors,
    die_with_parent,
    redirect_output,
    set_process_name,
)
from serverlessllm.engine.registry import engine_kind, load_dtype_choice, load_factory
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


class Zygote:
    """The loop of one zygote: commands in, forks and reports out."""

    def __init__(self, kind: EngineKind, control: socket.socket, factory: EngineFactory) -> None:
        self._kind = kind
        self._control = control
        self._factory = factory
        self._pid = os.getpid()
        self._children: dict[str, Child] = {}
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
            for child in list(self._children.values()):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
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
                self._fork(command.slot_id, lambda: self._choose_dtype(command))
            case Kill(slot_id=slot_id) if slot_id in self._children:
                signal.pidfd_send_signal(self._children[slot_id].pidfd, signal.SIGKILL)
        return True

    def _fork_worker(self, command: Fork) -> None:
        directory = Path(command.directory)
        try:
            # Bound before the fork, so that the agent may connect as soon as it hears of the worker.
            listener = listen_in(directory)
        except OSError as error:
            self._send(ForkFailed(command.slot_id, f"cannot listen in {directory}: {error}"))
            return
        with listener:
            pid = self._fork(command.slot_id, lambda: self._work(command, listener))
        if pid:
            self._send(Forked(command.slot_id, pid))

    def _fork(self, slot_id: str, child: Callable[[], None]) -> int:
        """Fork a process that runs `child` and ends; returns its pid, or 0 after reporting a failure."""
        try:
            pid = os.fork()
        except OSError as error:
            self._send(ForkFailed(slot_id, f"cannot fork: {error}; the machine lacks memory or processes"))
            return 0
        if pid == 0:
            self._run_child(slot_id, child)
        pidfd = os.pidfd_open(pid)
        self._children[slot_id] = Child(slot_id, pid, pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, self._children[slot_id])
        return pid

    def _run_child(self, slot_id: str, child: Callable[[], None]) -> NoReturn:
        """The entry point of every forked process; never returns into the zygote's loop."""
        exit_code = EXIT_CRASH
        try:
            die_with_parent(self._pid)
            set_process_name(f"w-{slot_id}")
            child()
            exit_code = 0
        except Exception:
            traceback.print_exc()
        finally:
            # Without interpreter shutdown: compute threads may run, and nothing here outlives the process.
            sys.stderr.flush()
            os._exit(exit_code)

    def _work(self, command: Fork, listener: socket.socket) -> None:
        redirect_output(Path(command.directory) / LOG_NAME)
        self._selector.close()
        self._control.close()
        close_descriptors(keep=[listener.fileno()])
        os.chdir(command.directory)  # what an engine leaves on disk lies there, and goes with the slot
        engine = self._factory(command.dtype, command.num_threads, command.device, command.arena_path)
        serve(listener, engine)

    def _choose_dtype(self, command: ChooseDtype) -> None:
        started_s = time.perf_counter()
        choose = load_dtype_choice(self._kind)
        dtype = "float32" if choose is None else choose(command.num_threads)
        self._send(DtypeChosen(command.slot_id, dtype, (time.perf_counter() - started_s) * 1e3))

    def _reap(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        del self._children[child.slot_id]
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        self._send(Exited(child.slot_id, child.pid, os.waitstatus_to_exitcode(status)))

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
