# SPDX-License-Identifier: Apache-2.0
"""The first checks of `sllm doctor`, those of a machine of its own: what each found, and what to do about it.

They change nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from serverlessllm.cli.units import bytes_text, count_text, rate_text
from serverlessllm.errors import ConfigError, SllmError, UnreachableError

if TYPE_CHECKING:
    from serverlessllm.cli.session import Session
    from serverlessllm.config import Config
    from serverlessllm.wire.admin import AgentView

Status = Literal["ok", "warn", "fail"]
MIN_TORCH: Final = (2, 8)
PYTHONS: Final = ((3, 11), (3, 12))
MIN_FREE_BYTES: Final = 4 << 30
MIN_DISK_BYTES_PER_S: Final = 500e6
SLOW_SHARE: Final = 0.4
"""Of what was measured: less than that is worth a word. The probe is short, so it reads less than a load."""
CAP_SYS_ADMIN: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`warn`: it works, slower or with less; `fail`: it will not work. `advice` is empty when all is well."""

    name: str
    status: Status
    finding: str
    advice: str = ""


def check_engine(config: Config) -> CheckResult:
    """Python, torch, and the dtype that this CPU computes faster."""
    python = platform.python_version()
    if sys.version_info[:2] not in PYTHONS:
        return CheckResult("engine", "fail", f"Python {python}", "use Python 3.11 or 3.12")
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return CheckResult(
            "engine",
            "warn",
            f"Python {python}, no torch: only the `simulated` engine runs",
            "pip install 'serverlessllm[engine]'",
        )
    finding = f"Python {python}, torch {torch}, {_dtype_text(config)}"
    if _version(torch) < MIN_TORCH:
        return CheckResult("engine", "fail", finding, "pip install 'torch>=2.8'")
    return CheckResult("engine", "ok", finding)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())


def _dtype_text(config: Config) -> str:
    """What `engine.dtype` comes to on this machine; measured by the agent at its first start."""
    from serverlessllm.engine.slots_profile import machine_key
    from serverlessllm.node_profile import NodeProfile

    if config.engine.dtype != "auto":
        return f"computes in {config.engine.dtype} (set)"
    num_threads = config.engine.threads or len(os.sched_getaffinity(0))
    measured = NodeProfile(config.data_path).dtype(machine_key("torch", num_threads))
    if measured is not None:
        return f"computes in {measured} (measured)"
    return "dtype is measured at the first start"


def check_huge_pages(config: Config) -> CheckResult:
    """Whether the arena gets huge pages: mapping weights then costs a tenth."""
    from serverlessllm.arena.backing import huge_backing

    name, point = "huge pages", huge_backing(config.data_path / "arena").mount_point
    if config.arena.huge_pages == "never":
        return CheckResult(
            name, "warn", "switched off by arena.huge_pages", "set arena.huge_pages to auto for faster starts"
        )
    if is_huge_mount(point):
        return CheckResult(name, "ok", f"a huge-page tmpfs is mounted on {point}")
    if may_mount():
        return CheckResult(name, "ok", f"the agent may mount a huge-page tmpfs on {point}")
    status: Status = "fail" if config.arena.huge_pages == "always" else "warn"
    return CheckResult(
        name,
        status,
        "no privilege to mount a huge-page tmpfs; weights go to /dev/shm in 4 KiB pages",
        f"once, as root: mkdir -p {point} && mount -t tmpfs -o huge=always,uid={os.getuid()},mode=0700 tmpfs {point}",
    )


def is_huge_mount(point: Path | None) -> bool:
    """Whether a tmpfs with huge pages is mounted there."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if target == str(point) and kind == "tmpfs" and "huge=always" in options.split(","):
            return True
    return False


def may_mount() -> bool:
    """CAP_SYS_ADMIN among this process's effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & CAP_SYS_ADMIN)
    return False


def check_disk(config: Config) -> CheckResult:
    """Free space of the data directory, and how fast its disk reads past the page cache."""
    from serverlessllm.cli import disk_speed
    from serverlessllm.loader.io_settings import choose_io
    from serverlessllm.node_profile import NodeProfile

    path = config.data_path
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    room = f"{bytes_text(free_bytes)} free in {path}"
    if free_bytes < 2 * disk_speed.PROBE_BYTES:
        return CheckResult("disk", "fail", room, "free some space, or choose another --data-dir")
    profile = NodeProfile(path).read().io
    try:
        io = choose_io(config.loader, profile)
        speed = disk_speed.measure(existing, num_threads=io.num_threads)
    except OSError as error:
        advice = "make it writable, or choose another --data-dir"
        return CheckResult("disk", "fail", f"cannot write to {existing}: {error.strerror}", advice)
    known = f" of {rate_text(profile.bytes_per_s)} measured by `sllm tune io`" if profile is not None else ""
    finding = (
        f"reads {rate_text(speed.bytes_per_s)}{known}{'' if speed.is_direct else ' without O_DIRECT'}, {room}"
    )
    if not speed.is_direct:
        return CheckResult("disk", "warn", finding, "put --data-dir on ext4 or xfs for direct reads")
    if free_bytes < MIN_FREE_BYTES:
        return CheckResult("disk", "warn", finding, "free some space: one 7B model takes 15 GB")
    if speed.bytes_per_s < MIN_DISK_BYTES_PER_S:
        return CheckResult("disk", "warn", finding, "cold starts wait for this disk; put --data-dir on NVMe")
    if profile is not None and speed.bytes_per_s < SLOW_SHARE * profile.bytes_per_s:
        advice = "other work slows it now, or it ages; measure again with `sllm tune io` while it is quiet"
        return CheckResult("disk", "warn", finding, advice)
    return CheckResult("disk", "ok", finding)


def check_memory(config: Config) -> CheckResult:
    """The arena's budget against the machine's memory, or the container's."""
    from serverlessllm.arena.memory import choose_budget_bytes, machine_memory_bytes

    memory_bytes = machine_memory_bytes()
    try:
        budget_bytes = choose_budget_bytes(
            config.arena.budget_bytes, memory_bytes=memory_bytes, room_bytes=memory_bytes, where="memory"
        )
    except ConfigError as error:
        return CheckResult("memory", "fail", error.message, "lower arena.budget_bytes")
    available_bytes = _available_bytes()
    finding = (
        f"{bytes_text(budget_bytes)} for weights, of {bytes_text(memory_bytes)}; "
        f"{bytes_text(available_bytes)} available now"
    )
    if budget_bytes > 0.8 * memory_bytes:
        return CheckResult("memory", "warn", finding, "leave a fifth to engines: lower arena.budget_bytes")
    if budget_bytes > available_bytes:
        return CheckResult(
            "memory", "warn", finding, "other programs hold it now; stop some, or lower arena.budget_bytes"
        )
    return CheckResult("memory", "ok", finding)


def _available_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def check_server(config: Config, session: Session) -> CheckResult:
    """A server that answers at the session's address; or else that its port is free to start one."""
    try:
        with session.client() as client:
            agents = client.agents()
            num_models, num_agents = len(client.models()), sum(agent.is_alive for agent in agents)
    except UnreachableError:
        return _check_port(config)
    except SllmError as error:
        return CheckResult("server", "warn", f"{session.url}: {error.message}", "see --url and --api-key")
    finding = (
        f"{session.url} answers: {count_text(num_models, 'model')}, {count_text(num_agents, 'agent')} alive"
        f"{_touched_text(agents)}"
    )
    if not num_agents:
        return CheckResult("server", "fail", finding, "no agent is alive; see the log of the server")
    return CheckResult("server", "ok", finding)


def _touched_text(agents: Sequence[AgentView]) -> str:
    """How much DRAM the agents keep touched ahead of loads, and what keeps them from more."""
    found = [agent.status.prefault for agent in agents if agent.status and agent.status.prefault]
    if not found:
        return ""
    touched, target = sum(s.touched_bytes for s in found), sum(s.target_bytes for s in found)
    states = ", ".join(dict.fromkeys(s.state.replace("_", " ") for s in found))
    return f", {bytes_text(touched)} of {bytes_text(target)} DRAM touched ahead ({states})"


def _check_port(config: Config) -> CheckResult:
    host, port = config.orchestrator.host, config.orchestrator.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            finding = f"nobody answers, and {host}:{port} cannot be taken: {error.strerror}"
            return CheckResult("server", "fail", finding, "choose another --port, or end what holds this one")
    return CheckResult("server", "ok", f"none runs; {host}:{port} is free to start one with `sllm serve`")
