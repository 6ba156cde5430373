# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes, killed, paused and cut off at random under 200 streams: every answer is whole.

`TEST_SEED=N` repeats a seed: its faults come at the same moments, and the clients ask the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.harness.network import require_namespaces
from chaos.harness.schedule import Bounds
from chaos.harness.storm import Load, Storm
from chaos.harness.torch_storm import TorchStorm
from support.seeds import seeds


def store_of(seed: int) -> str:
    """Neighbours have different ones."""
    return ("redis", "etcd")[seed % 2]


async def check(storm: Storm) -> None:
    """One run; every answer must be right."""
    require_namespaces()
    outcomes = await storm.run()
    num_anew = sum(outcome.num_anew for outcome in outcomes)
    num_back = sum(outcome.num_connections > 1 for outcome in outcomes)
    num_ties = sum(outcome.num_near_ties for outcome in outcomes)
    print(f"{num_back} clients came back, {num_anew} asked anew, {num_ties} near ties")  # noqa: T201
    problems = [
        f"{outcome.ask.number} ({outcome.ask.model}): {outcome.problem}"
        for outcome in outcomes
        if outcome.problem
    ]
    assert not problems, "\n".join([f"{len(problems)} of {len(outcomes)} answers are wrong", *problems])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", seeds(3))
async def test_storm_cuts_no_stream_and_leaves_nothing_behind(tmp_path: Path, seed: int) -> None:
    await check(Storm(tmp_path, store_of(seed), seed))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", seeds(1))
async def test_storm_over_the_real_engine_cuts_no_stream(tmp_path: Path, seed: int) -> None:
    bounds = Bounds(num_faults=6, last_s=8.0, num_agents=2, roles=("agent", "orchestrator"))
    load = Load(num_clients=24, over_s=8.0, num_models=1, tokens=(200, 500))
    await check(TorchStorm(tmp_path, store_of(seed), seed, bounds, load))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", seeds(20))
async def test_storm_cuts_no_stream_and_leaves_nothing_behind_nightly(tmp_path: Path, seed: int) -> None:
    await check(Storm(tmp_path, store_of(seed), seed))
