# SPDX-License-Identifier: Apache-2.0
"""What must hold between an adapter, `model:adapter`, and its base model when either is added or removed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from serverlessllm.errors import ConflictError, InvalidRequestError, ModelNotFoundError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.rank_rules import num_ranks
from serverlessllm.types import base_name
from serverlessllm.wire.admin import AddModel


def check_addition(request: AddModel, base: ModelRecord | None) -> None:
    """`base` is the record of the model before the colon. Nothing is asked of what is no adapter.

    Raises: ModelNotFoundError without a base; InvalidRequestError naming the field.
    """
    name = base_name(request.name)
    if name == request.name:
        return
    if base is None:
        raise ModelNotFoundError(
            f"name: model {name!r} is not registered; add it before its adapters", param="name"
        )
    if base.engine != "torch" or request.engine != "torch":
        raise InvalidRequestError("engine: only the torch engine runs adapters", param="engine")
    if num_ranks(base.options) > 1:
        raise InvalidRequestError(
            f"name: model {name!r} has tensor parallelism, which runs no adapters; add the base again without it",
            param="name",
        )
    if request.lazy:
        raise InvalidRequestError("lazy: adapters are small and fetched at once", param="lazy")


def check_removal(name: str, records: Iterable[ModelRecord]) -> None:
    """Raises: ConflictError while the model has adapters."""
    adapters = sorted(each.name for each in records if each.name != name and base_name(each.name) == name)
    if adapters:
        raise ConflictError(f"model {name!r} has adapters: remove {', '.join(adapters)} first", param="name")
