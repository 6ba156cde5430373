# SPDX-License-Identifier: Apache-2.0
"""How many ranks a model asks for, and whether a node could ever offer them. Pure; knows no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serverlessllm.errors import InvalidRequestError
from serverlessllm.types import TENSOR_PARALLEL_OPTION
from serverlessllm.wire.admin import AddModel
from serverlessllm.wire.agent import AgentStatus


def num_ranks(options: Mapping[str, float]) -> int:
    """Workers of one node that compute the model together."""
    return int(options.get(TENSOR_PARALLEL_OPTION, 1))


def check_ranks(request: AddModel, agents: Iterable[AgentStatus]) -> None:
    """Refuse what no agent of those that are known now could run; without any, nothing is refused.

    Raises: InvalidRequestError.
    """
    wanted = num_ranks(request.options)
    offered = max((agent.max_num_ranks for agent in agents), default=wanted)
    if wanted > 1 and request.engine == "simulated":
        raise InvalidRequestError(
            f"options.{TENSOR_PARALLEL_OPTION}: the simulated engine has one worker", param="options"
        )
    if wanted > offered:
        raise InvalidRequestError(
            f"options.{TENSOR_PARALLEL_OPTION}: {wanted} ranks are asked for, the largest node offers {offered}, and "
            "a model is never spread over several nodes; ask for fewer, or raise engine.max_tensor_parallel",
            param="options",
        )
