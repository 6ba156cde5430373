# SPDX-License-Identifier: Apache-2.0
"""A real S3 server (SeaweedFS) with one account and one bucket, for as long as a `with` block runs.

For benchmarks and for tests.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET: Final = "models"
ACCESS_KEY: Final = "test-access"
SECRET_KEY: Final = "test-secret"  # of a server that lives for one test
READY_WITHIN_S: Final = 60.0


def _free_port() -> int:
    """A port whose gRPC twin (+ 10000) exists too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


class Seaweed:
    """`environment` is what a client of it sets; data lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def store(self) -> S3Store:
        """obstore's own client, for arranging and checking."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def _command(self) -> list[str]:
        config = self._directory / "s3.json"
        account = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        config.write_text(json.dumps({"identities": [account]}))
        data = self._directory / "data"
        data.mkdir()
        ports = {name: _free_port() for name in ("master", "volume", "filer")}
        return [
            str(Path(sys.executable).with_name("weed")),
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            "-filer",
            "-s3",
            f"-s3.port={self._port}",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=30",
            "-master.telemetry=false",
        ]

    def __enter__(self) -> Self:
        with (self._directory / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self._directory, stdout=log, stderr=subprocess.STDOUT
            )
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                self.__exit__()
                raise RuntimeError((self._directory / "weed.log").read_text()[-2000:])
            time.sleep(0.2)
        return self

    def _is_ready(self) -> bool:
        """Makes the bucket by storing an object in it, as SeaweedFS allows an administrator."""
        try:
            obstore.put(self.store(), "ready", b"yes")
        except BaseError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()  # it takes long to say goodbye, and its data go with it
            self._process.wait()
