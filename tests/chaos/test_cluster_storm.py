# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes, killed, paused and cut off at random under 200 streams: every answer is whole.

`TEST_SEED=N` repeats a seed: its faults come at the same moments, and the clients ask the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.harness.network import require_namespaces
from chaos.harness.storm import Storm
from support.seeds import seeds


async def check_storm(home: Path, seed: int) -> None:
    """One run, on the store that the seed chooses."""
    require_namespaces()
    outcomes = await Storm(home, ("redis", "etcd")[seed % 2], seed).run()
    problems = [
        f"{outcome.ask.number} ({outcome.ask.model}): {outcome.problem}"
        for outcome in outcomes
        if outcome.problem
    ]
    assert not problems, "\n".join([f"{len(problems)} of {len(outcomes)} answers are wrong", *problems])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", seeds(3))
async def test_storm_cuts_no_stream_and_leaves_nothing_behind(tmp_path: Path, seed: int) -> None:
    await check_storm(tmp_path, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", seeds(20))
async def test_storm_cuts_no_stream_and_leaves_nothing_behind_nightly(tmp_path: Path, seed: int) -> None:
    await check_storm(tmp_path, seed)
