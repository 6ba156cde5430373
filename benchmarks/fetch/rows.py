# SPDX-License-Identifier: Apache-2.0
"""What is compared: the object, and for each row of the table the process that fetches it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from blake3 import blake3

from benchmarks._harness.line_process import LineProcess
from benchmarks._harness.seaweed import BUCKET, Seaweed
from benchmarks._harness.stats import median
from benchmarks.fetch import link, servers
from benchmarks.fetch.client import PIECE_BYTES

CLIENT = Path(__file__).with_name("client.py")
KEY = "bench/model.bin"
TENTH = 10
SLOW_SHARE = 8
"""A slow origin alone is measured with an eighth of the object: all of it would take ten times as long."""
FAST_LINK_SHARE = 4
"""The fast link carries a quarter of what the processors can take in, so that links are what is shared out."""
SLOW_ROWS = ("link_slow", "origin_tenth")


@dataclass(frozen=True, slots=True)
class Object:
    """What is fetched: `root`/model.bin, and the digests of its pieces in a file."""

    root: Path
    nbytes: int
    digests_file: Path

    @property
    def path(self) -> Path:
        return self.root / "model.bin"

    def part(self, share: int) -> tuple[int, int]:
        """(bytes, pieces) of the first `1/share` of it, in whole pieces."""
        num_pieces = -(-self.nbytes // share // PIECE_BYTES)
        return min(self.nbytes, num_pieces * PIECE_BYTES), num_pieces

    def nbytes_of(self, row: str) -> int:
        """How much of it the row fetches."""
        return self.part(SLOW_SHARE if row in SLOW_ROWS else 1)[0]


def make_object(directory: Path, nbytes: int) -> Object:
    """Random bytes, so that nothing can compress or skip them."""
    root = directory / "www"
    root.mkdir()
    digests: list[str] = []
    with (root / "model.bin").open("wb") as file:
        for at in range(0, nbytes, PIECE_BYTES):
            block = os.urandom(min(PIECE_BYTES, nbytes - at))
            file.write(block)
            digests.append(blake3(block).hexdigest())
    digests_file = directory / "digests.json"
    digests_file.write_text(json.dumps(digests))
    return Object(root, nbytes, digests_file)


class Rows:
    """Measures a row by its name."""

    def __init__(self) -> None:
        self.processes: dict[str, LineProcess] = {}

    def start(self, stack: ExitStack, rows: dict[str, dict[str, object]]) -> None:
        """These rows in one process, until `stack` ends it."""
        process = stack.enter_context(LineProcess(CLIENT, [json.dumps(rows)]))
        self.processes |= dict.fromkeys(rows, process)

    def ask(self, name: str) -> dict[str, float]:
        """`seconds` and `cpu_s` of one fetch."""
        return self.processes[name].ask(name)


def ours(what: Object, row: str, *origins: str, **options: object) -> dict[str, object]:
    """What `client.Ours` needs."""
    nbytes, num_pieces = what.part(SLOW_SHARE if row in SLOW_ROWS else 1)
    defaults: dict[str, object] = {"target": "touched", "verify": True, "environment": {}}
    return {
        "way": "ours",
        "origins": list(origins),
        "nbytes": nbytes,
        "num_pieces": num_pieces,
        "digests_file": str(what.digests_file),
        "touched_bytes": what.nbytes,
        **defaults,
        **options,
    }


def http_rows(what: Object, url: str, disk: Path, shm: Path) -> dict[str, dict[str, object]]:
    """Ours from one origin over HTTP, into memory touched before, fresh memory, and the disk."""
    return {
        "fetch": ours(what, "fetch", url),
        "fetch_fresh": ours(what, "fetch_fresh", url, target=str(shm / "fresh.bin")),
        "fetch_unverified": ours(what, "fetch_unverified", url, verify=False),
        "fetch_nvme": ours(what, "fetch_nvme", url, target=str(disk / "nvme.bin")),
    }


def start_s3(stack: ExitStack, rows: Rows, what: Object, disk: Path, shm: Path) -> None:
    """Ours, obstore and boto3 from one S3 server."""
    home = disk / "s3"
    home.mkdir()
    seaweed = stack.enter_context(Seaweed(home))
    obstore.put(seaweed.store(), KEY, what.path, chunk_size=PIECE_BYTES)
    location, environment = f"s3://{BUCKET}/{KEY}", seaweed.environment
    rows.start(
        stack,
        {
            "s3": ours(what, "s3", location, environment=environment),
            "s3_unverified": ours(what, "s3_unverified", location, environment=environment, verify=False),
        },
    )
    store = {key.lower(): value for key, value in environment.items()}
    peer = {"bucket": BUCKET, "key": KEY, "nbytes": what.nbytes, "store": store}
    rows.start(stack, {"s3_obstore": {"way": "obstore", **peer}})
    rows.start(stack, {"s3_boto3": {"way": "boto3", "target": str(shm / "boto3.bin"), **peer}})


def start_links(stack: ExitStack, rows: Rows, what: Object, url: str) -> None:
    """Two origins behind links, one a tenth of the other; and one behind a tenth of loopback, beside loopback."""
    alone_bytes_per_s = what.nbytes / median([rows.ask("fetch")["seconds"] for _ in range(3)])
    fast_bytes_per_s = alone_bytes_per_s / FAST_LINK_SHARE
    speeds = (fast_bytes_per_s, fast_bytes_per_s / TENTH, alone_bytes_per_s / TENTH)
    fast, slow, tenth = (
        stack.enter_context(behind_link(what, number, speed)) for number, speed in enumerate(speeds)
    )
    origins = {
        "link_fast": (fast,),
        "link_slow": (slow,),
        "two_origins": (fast, slow),
        "origin_tenth": (tenth,),
        "two_origins_cpu_bound": (url, tenth),
    }
    rows.start(stack, {name: ours(what, name, *urls) for name, urls in origins.items()})


@contextmanager
def behind_link(what: Object, number: int, bytes_per_s: float) -> Iterator[str]:
    """The object's URL at a server in a network of its own."""
    with (
        link.Link(number, bytes_per_s) as network,
        servers.nginx(what.root, namespace=network.namespace, host=network.host) as server,
    ):
        yield f"{server}/model.bin"
