# SPDX-License-Identifier: Apache-2.0
"""Which module makes the engine of a kind. Imports it only when asked: the agent never imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from serverlessllm.engine.base import EngineFactory, RankFactory
from serverlessllm.errors import ConfigError
from serverlessllm.types import TENSOR_PARALLEL_OPTION, EngineKind

DtypeChoice = Callable[[int], str]
"""(num_threads) → the compute dtype that this machine runs faster. Runs kernels: not for a zygote."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Where one kind of engine lives, as `module:attribute`.

    `dtype_choice` is None where all dtypes cost the same; `distribution` is the installed package whose
    version decides how fast a dtype is. `auto_dtype` is what `dtype: auto` means without a choice. `devices`: whether
    it computes on one, and so on a GPU too. `rank_factory` makes one rank of several, if it has tensor parallelism.
    """

    factory: str
    rank_factory: str | None = None
    devices: bool = False
    dtype_choice: str | None = None
    distribution: str = "serverlessllm"
    auto_dtype: str = "float32"


ENGINES: Final[Mapping[EngineKind, EngineSpec]] = {
    "torch": EngineSpec(
        factory="serverlessllm.engine.llama.engine:create",
        rank_factory="serverlessllm.engine.llama.engine:create_rank",
        dtype_choice="serverlessllm.engine.llama.dtype_choice:choose_dtype",
        distribution="torch",
        devices=True,
    ),
    "simulated": EngineSpec(factory="serverlessllm.engine.simulated.engine:create"),
    # `auto` is vLLM's own word: what the checkpoint is in.
    "vllm": EngineSpec(factory="serverlessllm.engine.vllm_server.engine:create", auto_dtype="auto"),
}


def engine_kind(name: str) -> EngineKind:
    """`name` as a kind. Raises ConfigError listing the known ones."""
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r} is unknown; known are {', '.join(ENGINES)}", param="engine")
    return cast(EngineKind, name)


def load_factory(kind: EngineKind) -> EngineFactory:
    """Import the engine of `kind` and return its factory. Raises ConfigError when it is not installed."""
    return cast(EngineFactory, _load(kind, ENGINES[kind].factory))


def num_ranks(kind: EngineKind, options: Mapping[str, float]) -> int:
    """Workers that compute one model together; 1 for kinds that see to it themselves, or cannot."""
    return int(options.get(TENSOR_PARALLEL_OPTION, 1)) if ENGINES[kind].rank_factory is not None else 1


def load_rank_factory(kind: EngineKind) -> RankFactory:
    """As `load_factory`, for one rank of several. Raises ConfigError also for a kind without tensor parallelism."""
    path = ENGINES[kind].rank_factory
    if path is None:
        raise ConfigError(f"engine {kind!r} computes in one worker only", param=TENSOR_PARALLEL_OPTION)
    return cast(RankFactory, _load(kind, path))


def load_dtype_choice(kind: EngineKind) -> DtypeChoice | None:
    """Import the measurement behind `dtype: auto` of `kind`, or None if it has none."""
    path = ENGINES[kind].dtype_choice
    return None if path is None else cast(DtypeChoice, _load(kind, path))


def _load(kind: EngineKind, path: str) -> object:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"engine {kind!r} cannot be imported: {error}; install it: pip install 'serverlessllm[engine]'",
            param="engine",
            source="engine",
        ) from error
    return getattr(module, attribute)
