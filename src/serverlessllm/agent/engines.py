# SPDX-License-Identifier: Apache-2.0
"""Which engines a node offers: what is installed, narrowed by `engine.kinds`. Looked for, not imported."""

from __future__ import annotations

import importlib.util
from typing import get_args

from serverlessllm.config import Config
from serverlessllm.engine.vllm_server.environment import is_built
from serverlessllm.errors import ConfigError
from serverlessllm.types import EngineKind


def offered_engines(config: Config) -> list[EngineKind]:
    """Those of `engine.kinds`, or all that are installed. Raises ConfigError for one that cannot run here."""
    installed = installed_engines(config)
    for kind in config.engine.kinds:
        if kind not in installed:
            raise ConfigError(
                f"engine.kinds: {kind!r} does not run here; this node has {', '.join(installed)}",
                param="engine.kinds",
            )
    return [kind for kind in installed if kind in config.engine.kinds or not config.engine.kinds]


def installed_engines(config: Config) -> list[EngineKind]:
    """`simulated` always, `torch` and `vllm` where they are installed."""
    is_installed: dict[EngineKind, bool] = {
        "torch": importlib.util.find_spec("torch") is not None,
        "vllm": is_built(config.engine.vllm_environment),
    }
    return [kind for kind in get_args(EngineKind) if is_installed.get(kind, True)]
