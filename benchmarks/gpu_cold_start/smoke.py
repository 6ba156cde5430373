# SPDX-License-Identifier: Apache-2.0
"""What the machine can do, in a minute: packages, huge-page tmpfs, O_DIRECT, page-locking, copy speeds.

Run before `run.py` on a machine that nobody has seen. Needs torch with CUDA and nothing else; prints one JSON line
per finding as it is found, so that a run that is cut off has said something.
"""

from __future__ import annotations

import importlib.metadata
import json
import mmap
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

GIB = 1 << 30
PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "tokenizers",
    "aiohttp",
    "msgspec",
    "uvloop",
    "httptools",
    "httpx",
    "typer",
    "rich",
    "jinja2",
    "prometheus-client",
    "blake3",
    "huggingface-hub",
    "triton",
)


def say(finding: str, **found: object) -> None:
    """One finding."""
    print(json.dumps({"finding": finding, **found}), flush=True)


def packages() -> None:
    """Versions of what is there."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    say("packages", python=platform.python_version(), kernel=platform.release(), **versions)


def memory() -> None:
    """Sizes and limits."""
    disk, shm = os.statvfs("."), os.statvfs("/dev/shm")
    say(
        "machine",
        cores=len(os.sched_getaffinity(0)),
        shm_bytes=shm.f_bavail * shm.f_frsize,
        disk_bytes=disk.f_bavail * disk.f_frsize,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        locked_bytes=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    )


def huge_mount() -> Path:
    """A huge-page tmpfs if we may mount one, else /dev/shm."""
    where = Path(tempfile.mkdtemp())
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "huge=always,size=16g", "none", str(where)],
        capture_output=True,
        text=True,
    )
    say("huge_mount", ok=done.returncode == 0, error=done.stderr.strip())
    return where if done.returncode == 0 else Path("/dev/shm")


def disk(nbytes: int = 4 * GIB) -> None:
    """O_DIRECT write and read speed of the working directory."""
    path = Path("smoke.bin").absolute()
    block = mmap.mmap(-1, 16 << 20)
    block.write(os.urandom(16 << 20))
    for flag, label in ((os.O_DIRECT, "direct"), (0, "buffered")):
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR | flag, 0o600)
        except OSError as error:
            say("disk", mode=label, error=str(error))
            continue
        started = time.perf_counter()
        for at in range(0, nbytes, len(block)):
            os.pwritev(fd, [block], at)
        os.fsync(fd)
        wrote = time.perf_counter() - started
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        rates = {}
        for threads in (1, 4, 8, 16):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            buffers = [mmap.mmap(-1, 8 << 20) for _ in range(threads)]
            started = time.perf_counter()

            def read(
                lane: int, fd: int = fd, threads: int = threads, buffers: list[mmap.mmap] = buffers
            ) -> None:
                for at in range(lane * (8 << 20), nbytes, threads * (8 << 20)):
                    os.preadv(fd, [buffers[lane]], at)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, range(threads)))
            rates[threads] = round(nbytes / (time.perf_counter() - started) / 1e9, 2)
        os.close(fd)
        say("disk", mode=label, write_gbps=round(nbytes / wrote / 1e9, 2), read_gbps=rates)
    path.unlink(missing_ok=True)


def cuda(where: Path, nbytes: int = 4 * GIB) -> None:
    """Page-locking of a mapped tmpfs file, and copies from it."""
    started = time.perf_counter()
    import torch

    imported = time.perf_counter()
    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has no types here
    device = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    say(
        "cuda",
        torch=torch.__version__,
        import_s=imported - started,
        init_s=time.perf_counter() - imported,
        name=torch.cuda.get_device_name(0),
    )
    file = where / "smoke.arena"
    fd = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(fd, nbytes)
    started = time.perf_counter()
    shared = mmap.mmap(fd, nbytes)
    shared.madvise(23)  # MADV_POPULATE_WRITE
    say("touch", where=str(where), gib_per_s=nbytes / GIB / (time.perf_counter() - started))
    target = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    source = torch.frombuffer(shared, dtype=torch.uint8)
    api = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch has no types here

    def copy_gbps(tensor: torch.Tensor) -> float:
        best = 0.0
        for _ in range(3):
            torch.cuda.synchronize()
            started = time.perf_counter()
            target[: tensor.numel()].copy_(tensor, non_blocking=True)
            torch.cuda.synchronize()
            best = max(best, tensor.numel() / (time.perf_counter() - started) / 1e9)
        return round(best, 2)

    say("copy_unregistered", gbps=copy_gbps(source))
    for flags in (8, 0):
        started = time.perf_counter()
        code = int(api.cudaHostRegister(source.data_ptr(), nbytes, flags))
        say("register", flags=flags, code=code, s_per_gib=(time.perf_counter() - started) / (nbytes / GIB))
        if code == 0:
            say("copy_registered", gbps=copy_gbps(source))
            api.cudaHostUnregister(source.data_ptr())
    readonly = torch.frombuffer(mmap.mmap(fd, nbytes, prot=mmap.PROT_READ), dtype=torch.uint8)
    code = int(api.cudaHostRegister(readonly.data_ptr(), nbytes, 8))
    say("register_readonly_mapping", code=code)
    if code == 0:
        api.cudaHostUnregister(readonly.data_ptr())
    pinned = torch.empty(GIB, dtype=torch.uint8, pin_memory=True)
    say("copy_pinned", gbps=copy_gbps(pinned))
    a = torch.empty(8 * GIB, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    torch.cuda.synchronize()
    started = time.perf_counter()
    b.copy_(a)
    torch.cuda.synchronize()
    say("device_copy", gbps=8 * GIB / (time.perf_counter() - started) / 1e9)
    del device
    os.close(fd)
    file.unlink()


if __name__ == "__main__":
    packages()
    memory()
    where = huge_mount()
    disk()
    cuda(where)
    sys.stdout.flush()
