# SPDX-License-Identifier: Apache-2.0
"""Records survive the way through JSON, and versions mix."""

from __future__ import annotations

import msgspec
import pytest

from serverlessllm.metadata.records import (
    AgentRecord,
    KeyRecord,
    ModelRecord,
    PlacementRecord,
    Record,
    decode,
    encode,
)
from serverlessllm.metadata.store import Entry, UnreadableStoreError

MODEL = ModelRecord(
    name="org/m",
    state="ready",
    engine="simulated",
    source="/models/m",
    created_at_s=12.5,
    revision="0" * 32,
    nbytes=1 << 40,
    options={"simulated_load_s": 0.5},
)
RECORDS: list[Record] = [
    MODEL,
    PlacementRecord(model="m", replica="0", node="n", revision="0" * 32, attempt=3, state="loading"),
    KeyRecord(id="key-1", name="ci", role="infer", hash="ff", shown_prefix="sk-sllm-ab", created_at_s=1.0),
    AgentRecord(
        id="a", address="http://h:1", wire_version=1, devices=("cpu",), engines=("torch",), memory_bytes=9
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_comes_back_equal(record: Record) -> None:
    assert decode(type(record), Entry("/k", encode(record), 1)) == record


def test_field_of_a_newer_version_is_skipped() -> None:
    value = msgspec.json.encode({**msgspec.to_builtins(MODEL), "invented_later": {"x": 1}})
    assert decode(ModelRecord, Entry("/k", value, 1)) == MODEL


def test_record_of_an_older_version_takes_the_defaults() -> None:
    value = b'{"name":"m","state":"ready","engine":"torch","source":"s","created_at_s":1}'
    record = decode(ModelRecord, Entry("/k", value, 1))
    assert (record.keep_alive_s, record.options, record.error) == (None, {}, None)


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b'{"name": 1}', b'{"name":"m","state":"asleep"}'])
def test_value_that_is_no_record_names_its_key(value: bytes) -> None:
    with pytest.raises(UnreadableStoreError, match="/sllm/v1/models/m"):
        decode(ModelRecord, Entry("/sllm/v1/models/m", value, 1))
