# SPDX-License-Identifier: Apache-2.0
"""The demo: a real model goes from disk to its first token while you watch.

Starts the platform, ingests SmolLM2-135M-Instruct (Apache-2.0 weights out of a Python package), makes sure that
nothing of it is in memory, asks a question, prints the road of the cold start, asks again from memory and once
more while it is awake, stops. `--stay` leaves it running on http://127.0.0.1:8343.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from serverlessllm.sdk.local_server import LocalServer

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m-instruct"
QUESTION = "Explain in one sentence what a serverless platform is."


def say(text: str) -> None:
    """A step of the demo, apart from what the commands print."""
    sys.stdout.write(f"\n\033[1m── {text}\033[0m\n" if sys.stdout.isatty() else f"\n-- {text}\n")
    sys.stdout.flush()


def sllm(url: str, *args: str) -> None:
    """Show a command as the user would type it, then run it."""
    shown = " ".join(f'"{arg}"' if " " in arg else arg for arg in args)
    sys.stdout.write(f"$ sllm {shown}\n")
    sys.stdout.flush()
    env = {**os.environ, "SLLM_URL": url}
    subprocess.run([sys.executable, "-m", "serverlessllm.cli.main", *args], check=True, env=env)


def has_model(url: str) -> bool:
    """Whether an earlier demo left the model registered."""
    env = {**os.environ, "SLLM_URL": url}
    command = [sys.executable, "-m", "serverlessllm.cli.main", "model", "show", MODEL, "--json"]
    return subprocess.run(command, env=env, capture_output=True).returncode == 0


def drop_page_cache(directory: Path) -> None:
    """Ask the kernel to forget the artifacts' bytes, so that the first start reads the disk."""
    for path in directory.rglob("*.bin"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def chat(url: str, question: str) -> None:
    """One streamed answer with its timeline."""
    sllm(url, "chat", MODEL, question, "--temperature", "0", "--max-tokens", "64", "--timeline")


def wait_for_stop() -> None:
    """Until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return


def main() -> int:
    """Run the demo; 0 when every step succeeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stay", action="store_true", help="leave the platform running on port 8343")
    args = parser.parse_args()
    home = ROOT / ".demo"

    say("fetching the demo model (once)")
    fetch = [sys.executable, str(ROOT / "scripts" / "fetch_demo_model.py"), str(home / "model")]
    subprocess.run(fetch, check=True)
    source = next((home / "model").glob("*.gguf"))

    say("starting the platform: one process, no GPU")
    with LocalServer(home / "data", port=8343 if args.stay else 0) as server:
        sys.stdout.write(f"serving on {server.url}\n")
        if not has_model(server.url):
            say("converting the checkpoint into an artifact (once)")
            sllm(server.url, "model", "add", MODEL, os.path.relpath(source))
        drop_page_cache(home / "data" / "artifacts")

        say("first call: the model sleeps on disk")
        chat(server.url, QUESTION)
        say("unbound: nothing runs, the weights rest in memory; the next call wakes it")
        sllm(server.url, "stop", MODEL)
        chat(server.url, QUESTION)
        say("and a call while it is awake")
        chat(server.url, QUESTION)
        sllm(server.url, "ps")
        if args.stay:
            say(f"console: {server.url}/    API: {server.url}/v1    stop with Ctrl-C")
            wait_for_stop()
        say("stopping")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
