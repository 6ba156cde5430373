# SPDX-License-Identifier: Apache-2.0
"""Every error is an HTTP answer that an OpenAI client understands."""

from __future__ import annotations

import pytest

from serverlessllm import errors
from serverlessllm.errors import SllmError, error_classes, from_openai

OPENAI_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
}


def all_classes() -> list[type[SllmError]]:
    found = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SllmError)]
    return sorted(found, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", all_classes())
def test_every_class_has_status_type_and_docstring(cls: type[SllmError]) -> None:
    assert 400 <= cls.http_status < 600
    assert cls.openai_type in OPENAI_TYPES
    assert cls.__doc__
    assert (cls.http_status >= 500 or cls.http_status in (409, 429)) or not cls.retryable


@pytest.mark.parametrize("cls", all_classes())
def test_error_survives_the_wire(cls: type[SllmError]) -> None:
    sent = cls("it broke", param="messages[0]")
    received = from_openai(sent.as_openai(), status=cls.http_status)
    assert received.code == sent.code
    assert (received.message, received.param) == ("it broke", "messages[0]")
    assert received.http_status == sent.http_status


@pytest.mark.parametrize("body", [None, [], {}, {"error": "text"}, {"error": {"code": "from_the_future"}}])
def test_foreign_error_bodies_become_a_plain_error(body: object) -> None:
    error = from_openai(body, status=502)
    assert type(error) is SllmError
    assert "502" in error.message


def test_one_code_names_one_decision() -> None:
    by_code = error_classes()
    for cls in all_classes():
        assert issubclass(cls, by_code[cls.code]), f"{cls.__name__} borrows the code {cls.code}"
