# SPDX-License-Identifier: Apache-2.0
"""The API's document."""

from __future__ import annotations

import json

from serverlessllm.errors import error_classes
from serverlessllm.orchestrator.openapi import OPERATIONS, REASONS, document


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    schemas = document()["components"]["schemas"]
    for part in text.split('"$ref": "#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas


def test_unsupported_fields_may_only_say_off() -> None:
    chat = document()["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["logit_bias"] == {"enum": [None, {}]}
    assert chat["temperature"]["maximum"] == 2.0


def test_every_documented_status_is_one_of_our_errors() -> None:
    statuses = {cls.http_status for cls in error_classes().values()}
    assert statuses >= set(REASONS)


def test_every_call_that_needs_a_key_documents_401() -> None:
    for operation in OPERATIONS:
        responses = document()["paths"][operation.path][operation.method]["responses"]
        assert ("401" in responses) is operation.needs_key, operation
