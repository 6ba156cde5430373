# SPDX-License-Identifier: Apache-2.0
"""What weights may be."""

from __future__ import annotations

import pytest

from serverlessllm.errors import InvalidRequestError
from serverlessllm.wire.scheduler import ScoreWeights, parse_weights


def test_weight_left_out_counts_once() -> None:
    assert parse_weights(b'{"w_queue": 2.5, "w_evict": 0}') == ScoreWeights(w_queue=2.5, w_evict=0.0)
    assert parse_weights(b"{}").by_term() == {"queue": 1.0, "load": 1.0, "kv": 1.0, "evict": 1.0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"w_speed": 1}', "w_speed"),
        (b'{"w_kv": -0.1}', "w_kv"),
        (b'{"w_load": 1e999}', "w_load"),
        (b'{"w_queue": "2"}', "w_queue"),
        (b'{"w_queue": null}', "w_queue"),
    ],
)
def test_weight_that_is_no_weight_is_refused_by_its_name(body: bytes, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_weights(body)
    assert refused.value.param == param


@pytest.mark.parametrize("body", [b"", b"NaN", b"[1]", b'{"w_kv": NaN}'])
def test_what_is_no_object_of_numbers_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_weights(body)
