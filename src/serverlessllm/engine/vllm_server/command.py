# SPDX-License-Identifier: Apache-2.0
"""The command line and the environment of a vLLM server. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from serverlessllm.engine.base import EngineLimits
from serverlessllm.engine.vllm_server.environment import VllmEnvironment
from serverlessllm.errors import EngineError

SOCKET_NAME: Final = "vllm.sock"
MODEL_DIRECTORY: Final = "model"
MANIFEST_NAME: Final = "weights.json"
MODEL_NAME: Final = "model"
BLOCK_TOKENS: Final = 32
"""vLLM's default on a CPU, 128, never finds a short prompt's prefix."""
GIB: Final = 1 << 30
OPTIONS: Final = ("compile", "tensor_parallel_size")


def server_arguments(
    environment: VllmEnvironment,
    limits: EngineLimits,
    dtype: str,
    options: Mapping[str, float],
    parent_pid: int,
) -> list[str]:
    """Started in the worker's directory: every path is relative to it. Raises EngineError for an unknown option."""
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise EngineError(f"option {unknown[0]!r} is unknown to the vllm engine; known: {', '.join(OPTIONS)}")
    flags = [
        *("--model", MODEL_DIRECTORY, "--served-model-name", MODEL_NAME, "--uds", SOCKET_NAME),
        *("--load-format", "sllm", "--model-loader-extra-config", json.dumps({"manifest": MANIFEST_NAME})),
        *("--dtype", dtype, "--block-size", str(BLOCK_TOKENS), "--max-num-seqs", str(limits.max_num_seqs)),
        *("--tokens-only", "--enable-prompt-tokens-details", "--enable-prefix-caching"),
        *("--max-logprobs", "20", "--logprobs-mode", "raw_logprobs", "--generation-config", "vllm"),
        *("--tensor-parallel-size", str(int(options.get("tensor_parallel_size", 1)))),
        *("--max-model-len", str(limits.max_model_len_tokens or "auto")),
    ]
    if not options.get("compile", 0.0):
        flags.append("--enforce-eager")
    return [str(environment.python), "-m", "serverlessllm_vllm.server", str(parent_pid), *flags]


def server_environment(
    inherited: Mapping[str, str], limits: EngineLimits, num_threads: int, options: Mapping[str, float]
) -> dict[str, str]:
    """What vLLM reads from the environment; the zygote's quieted threads are not for it.

    Without the option `compile` nothing is compiled: vLLM's flag alone leaves functions that the first request
    would wait for.
    """
    kept = {
        name: value for name, value in inherited.items() if not name.startswith(("GOMP_", "KMP_", "PYTHON"))
    }
    kv_gib = max(1, math.ceil(limits.kv_cache_bytes / GIB))
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(num_threads),
        "SLLM_FOLLOW_PARENT": "1",
        "TORCHDYNAMO_DISABLE": "0" if options.get("compile", 0.0) else "1",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "sllm",
        "VLLM_SERVER_DEV_MODE": "1",
    }
