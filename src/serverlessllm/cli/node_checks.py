# SPDX-License-Identifier: Apache-2.0
"""Checks of `sllm doctor` about this machine as a node of a cluster. They change nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serverlessllm.cli.checks import CheckResult, is_huge_mount, may_mount
from serverlessllm.cli.units import bytes_text, duration_text
from serverlessllm.errors import ConfigError

if TYPE_CHECKING:
    from serverlessllm.config import Config

SHM: Final = Path("/dev/shm")
MIN_FILES: Final = 4096
"""Descriptors: one per client, per connection to an agent and per file that is being read."""
MAX_SKEW_S: Final = 2.0
TIME_ERROR: Final = 5
"""What adjtimex returns when nothing disciplines the clock (time.h)."""
_TIMEX_BYTES: Final = 512
"""At least the size of `struct timex` on every platform; its first field 0 asks and changes nothing."""
NVIDIA: Final = Path("/proc/driver/nvidia/version")
CAPABILITIES: Final = {"SYS_ADMIN": 21, "IPC_LOCK": 14, "SYS_NICE": 23}


def check_shared_memory(config: Config) -> CheckResult:
    """Whether weights find room where they go without huge pages: containers get 64 MiB of /dev/shm by default."""
    from serverlessllm.arena.backing import huge_backing
    from serverlessllm.arena.memory import choose_budget_bytes, machine_memory_bytes

    name = "shared memory"
    point = huge_backing(config.data_path / "arena").mount_point
    if config.arena.huge_pages != "never" and (is_huge_mount(point) or may_mount()):
        return CheckResult(name, "ok", "not needed: weights go to a huge-page tmpfs")
    memory_bytes = machine_memory_bytes()
    try:
        wanted = choose_budget_bytes(
            config.arena.budget_bytes, memory_bytes=memory_bytes, room_bytes=memory_bytes, where="memory"
        )
    except ConfigError:
        return CheckResult(name, "ok", "see memory")
    room_bytes = shutil.disk_usage(SHM).total
    finding = f"{SHM} has {bytes_text(room_bytes)}, weights may take {bytes_text(wanted)}"
    if room_bytes < wanted:
        advice = (
            f"docker run --shm-size, or an emptyDir of medium Memory on {SHM}; or lower arena.budget_bytes"
        )
        return CheckResult(name, "warn", finding, advice)
    return CheckResult(name, "ok", finding)


def check_clock(config: Config) -> CheckResult:
    """Whether something keeps the clock right: leases, traces and logs of nodes are compared by it."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if state < 0:
        return CheckResult("clock", "ok", "whether it is kept right cannot be asked here (a container)")
    if state == TIME_ERROR:
        return CheckResult(
            "clock", "warn", "nothing keeps the clock right", "run chrony or systemd-timesyncd on the machine"
        )
    return CheckResult("clock", "ok", "kept right by a time service")


def clock_beside(url: str, date_s: float) -> CheckResult:
    """Our clock against that of a server that said `date_s` (Unix time) in an answer; it tells whole seconds."""
    skew_s = abs(time.time() - date_s)
    if skew_s > MAX_SKEW_S:
        finding = f"{duration_text(skew_s)} apart from {url}"
        return CheckResult("clocks", "warn", finding, "run chrony or systemd-timesyncd on both machines")
    return CheckResult("clocks", "ok", f"agrees with {url}")


def check_limits(config: Config) -> CheckResult:
    """How many files may be open, and how much memory may be locked for GPUs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = locked == resource.RLIM_INFINITY
    finding = f"{soft} open files, {'any' if unlimited else bytes_text(locked)} locked memory"
    if soft < MIN_FILES:
        advice = f"ulimit -n {max(MIN_FILES, hard)}, or LimitNOFILE={max(MIN_FILES, hard)} in the unit"
        return CheckResult("limits", "warn", finding, advice)
    if config.engine.device == "cuda" and not unlimited:
        advice = "ulimit -l unlimited, or LimitMEMLOCK=infinity: GPU slots lock the whole arena"
        return CheckResult("limits", "warn", finding, advice)
    return CheckResult("limits", "ok", finding)


def check_driver(config: Config) -> CheckResult:
    """A GPU's driver where engines shall use one; one that is here unused is told."""
    found = NVIDIA.read_text().splitlines()[0] if NVIDIA.is_file() else ""
    if config.engine.device == "cuda":
        if not found:
            advice = "install NVIDIA's driver (in a container: --gpus all), or set engine.device to cpu"
            return CheckResult("driver", "fail", "engine.device is cuda, and no driver is loaded", advice)
        return CheckResult("driver", "ok", found.removeprefix("NVRM version: ").strip())
    if found:
        return CheckResult(
            "driver", "warn", "a GPU's driver is loaded, engines use the CPU", "set engine.device to cuda"
        )
    return CheckResult("driver", "ok", "not needed: engines use the CPU")


def check_ports(config: Config) -> CheckResult:
    """Ports that the settings fix, beside the front's own: free, or held by the part that they are for."""
    fixed = {
        "agent.port": (config.agent.host, config.agent.port),
        "ingest.port": (config.ingest.host, config.ingest.port),
    }
    taken = [f"{key} {port}" for key, (host, port) in fixed.items() if port and not _is_free(host, port)]
    if taken:
        advice = "fine if that part runs already; else choose another port, 0 takes a free one"
        return CheckResult("ports", "warn", f"in use: {', '.join(taken)}", advice)
    named = [f"{key} {port}" for key, (_, port) in fixed.items() if port]
    return CheckResult("ports", "ok", f"free: {', '.join(named)}" if named else "chosen at start")


def check_privileges(config: Config) -> CheckResult:
    """Who runs this, with which capabilities; every one of them is optional."""
    mask = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
    held = [name for name, bit in CAPABILITIES.items() if mask >> bit & 1]
    finding = f"uid {os.getuid()}, {', '.join(held) if held else 'no capabilities'}"
    path = next(folder for folder in (config.data_path, *config.data_path.parents) if folder.exists())
    if not os.access(path, os.W_OK | os.X_OK):
        owner = path.stat().st_uid
        advice = f"chown {os.getuid()} {path}, or choose another --data-dir"
        return CheckResult("privileges", "fail", f"{finding}; {path} belongs to uid {owner}", advice)
    return CheckResult("privileges", "ok", finding)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
