# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of a writer: whatever was acknowledged is there afterwards, in order, and nothing is half there."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord, decode
from serverlessllm.metadata.sqlite import SqliteStore

NUM_KILLS = 5
WRITES_BEFORE_KILL = 40
PATIENCE_S = 60.0
WRITER = """
import asyncio, sys
from pathlib import Path
from serverlessllm.metadata.keys import Keys
from serverlessllm.metadata.records import ModelRecord, encode
from serverlessllm.metadata.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    for index in range(1_000_000):
        name = f"run{sys.argv[2]}/model-{index}"
        record = ModelRecord(name=name, state="ready", engine="simulated", source="x" * 500, created_at_s=0.0)
        await store.put(Keys.model(name), encode(record))
        print(name, flush=True)

asyncio.run(main())
"""


async def write_until_killed(path: Path, run: int) -> list[str]:
    """The names that the killed writer had acknowledged; a half-written last line does not count."""
    child: Process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), str(run), stdout=PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        lines = [await child.stdout.readline() for _ in range(WRITES_BEFORE_KILL)]
        child.kill()
        lines += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


async def test_acknowledged_models_survive_repeated_kills(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    acknowledged: list[str] = []
    for run in range(NUM_KILLS):
        acknowledged += await write_until_killed(path, run)
        store = await SqliteStore.open(path)
        entries, revision = await store.range(Keys.MODELS)
        await store.close()
        names = [decode(ModelRecord, entry).name for entry in sorted(entries, key=lambda e: e.revision)]
        assert set(acknowledged) <= set(names)
        assert len(names) - len(acknowledged) <= run + 1  # at most the write in flight at each kill
        assert [entry.revision for entry in sorted(entries, key=lambda e: e.revision)] == list(
            range(1, revision + 1)
        )
