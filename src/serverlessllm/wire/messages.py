# SPDX-License-Identifier: Apache-2.0
"""The messages of a chat, as OpenAI's clients send them. Knows no template."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec

from serverlessllm.errors import InvalidRequestError, UnsupportedFieldError
from serverlessllm.wire.tools import ToolCall

MAX_MESSAGES: Final = 4096


class TextPart(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    """One text part of a message's content."""

    text: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chat message. Content is text, or a list of text parts that are joined.

    The `Any` fields come back from clients that send an answer's message again; only null is taken.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None

    @property
    def text(self) -> str:
        """The content as one string; None counts as empty."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


UNSUPPORTED: Final = ("refusal", "annotations", "audio", "function_call")
PLAIN_ROLES: Final = ("user", "system", "assistant")
_further: Final = attrgetter("tool_calls", "tool_call_id", *UNSUPPORTED)
_NOTHING_FURTHER: Final = (None,) * (2 + len(UNSUPPORTED))
"""Of a message that is a role and a text: by far the most."""


def check_messages(messages: Sequence[Message]) -> None:
    """Raises: InvalidRequestError, UnsupportedFieldError naming the field."""
    if not messages:
        raise InvalidRequestError("messages: must not be empty", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequestError(f"messages: at most {MAX_MESSAGES}", param="messages")
    called: set[str] = set()
    for index, message in enumerate(messages):
        if message.role in PLAIN_ROLES and _further(message) == _NOTHING_FURTHER:
            continue
        at = f"messages[{index}]"
        for field in UNSUPPORTED:
            if getattr(message, field) not in (None, []):
                raise UnsupportedFieldError(
                    f"{at}.{field}: not supported; leave it out", param=f"{at}.{field}"
                )
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequestError(f"{at}.tool_calls: only assistants call", param=f"{at}.tool_calls")
        called.update(call.id for call in message.tool_calls or ())
        is_answer = message.role == "tool"
        if is_answer != (message.tool_call_id is not None) or (
            is_answer and message.tool_call_id not in called
        ):
            raise InvalidRequestError(
                f"{at}.tool_call_id: a tool message answers a call of an earlier assistant message",
                param=f"{at}.tool_call_id",
            )
