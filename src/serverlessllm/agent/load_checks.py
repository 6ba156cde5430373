# SPDX-License-Identifier: Apache-2.0
"""What must hold before a replica's bytes are worth moving, and before it is worth binding. Pure."""

from __future__ import annotations

import os

from serverlessllm.agent.replica import Replica
from serverlessllm.config import EngineConfig
from serverlessllm.errors import ConfigError, InsufficientMemoryError
from serverlessllm.types import TENSOR_PARALLEL_OPTION


def check_budget(replica: Replica, budget_bytes: int) -> None:
    """Raises InsufficientMemoryError when its bytes could never fit into the arena."""
    if replica.held_bytes > budget_bytes:
        raise InsufficientMemoryError(
            f"model {replica.key.model} needs {replica.held_bytes} bytes of DRAM, this node's "
            f"budget is {budget_bytes}; raise arena.budget_bytes or use a smaller model",
            param="model",
            source="agent",
        )


def max_num_ranks(config: EngineConfig) -> int:
    """The most ranks that one model may have on this node."""
    own = len(os.sched_getaffinity(0)) if config.device == "cpu" else 1
    return config.max_tensor_parallel or own


def check_ranks(replica: Replica, config: EngineConfig) -> None:
    """Raises ConfigError when a model asks for more ranks than this node gives to one."""
    offered = max_num_ranks(config)
    if replica.num_ranks > offered:
        raise ConfigError(
            f"model {replica.key.model} asks for {replica.num_ranks} ranks, this node gives {offered} to one model; "
            "raise engine.max_tensor_parallel, or register it with a smaller --tensor-parallel",
            param=TENSOR_PARALLEL_OPTION,
            source="agent",
        )


def check_dtype(replica: Replica, wanted: str) -> None:
    """Raises ConfigError when its slot computes in another dtype than the model asks for."""
    found = replica.dtype
    if replica.engine == "torch" and wanted != "auto" and found is not None and wanted != found:
        raise ConfigError(
            f"model {replica.key.model} asks for {wanted}, this node's engine computes in {found}; "
            "set engine.dtype, or let the model use auto",
            param="dtype",
            source="agent",
        )
