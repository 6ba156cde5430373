# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from serverlessllm.errors import ConflictError, InvalidRequestError, ModelNotFoundError
from serverlessllm.metadata.records import ModelRecord
from serverlessllm.orchestrator.adapter_rules import check_addition, check_removal
from serverlessllm.types import EngineKind
from serverlessllm.wire.admin import AddModel


def record(name: str, engine: EngineKind = "torch") -> ModelRecord:
    return ModelRecord(name=name, state="ready", engine=engine, source="/m", created_at_s=0.0)


def test_adapter_of_a_known_torch_model_may_be_added() -> None:
    check_addition(AddModel("m:a", "/a"), record("m"))
    check_addition(AddModel("m", "/m"), None)


def test_adapter_without_a_fitting_base_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="before its adapters"):
        check_addition(AddModel("m:a", "/a"), None)
    with pytest.raises(InvalidRequestError) as engine:
        check_addition(AddModel("m:a", "/a"), record("m", "simulated"))
    with pytest.raises(InvalidRequestError) as lazy:
        check_addition(AddModel("m:a", "/a", lazy=True), record("m"))
    assert (engine.value.param, lazy.value.param) == ("engine", "lazy")


def test_model_with_adapters_stays_until_they_are_gone() -> None:
    records = [record("m"), record("m:a"), record("mm:a"), record("m:b")]
    with pytest.raises(ConflictError, match="m:a, m:b first"):
        check_removal("m", records)
    check_removal("m:a", records)
    check_removal("m", [record("m"), record("mm:a")])
