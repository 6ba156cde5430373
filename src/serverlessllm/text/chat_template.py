# SPDX-License-Identifier: Apache-2.0
"""A model's chat template: messages in, prompt text out.

Offers what Hugging Face templates expect: `messages`, `tools`, `documents`, `add_generation_prompt`, the special
tokens, `raise_exception`, `strftime_now`, and a `tojson` that escapes nothing. Knows no tokenizer.
Source: the template conventions of `transformers`' `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import Template, TemplateError

from serverlessllm.clock import Clock, SystemClock
from serverlessllm.errors import InvalidRequestError, UnsupportedFieldError
from serverlessllm.text.source import TextSource, read_json, read_optional
from serverlessllm.text.special_tokens import TOKENIZER_CONFIG, template_tokens
from serverlessllm.text.template_sandbox import TemplateSandbox
from serverlessllm.text.tool_syntax import ToolSyntax, tool_syntax

TEMPLATE_FILE: Final = "chat_template.jinja"
MAX_SOURCE_CHARS: Final = 1 << 20
MAX_DATE_FORMAT_CHARS: Final = 64
MAX_ERROR_CHARS: Final = 300
_FOREIGN_ERRORS: Final = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What code that we did not write may raise while it renders."""


class ChatTemplate:
    """The compiled templates of one model. Rendering is safe from several threads."""

    def __init__(
        self, sources: Mapping[str, str], tokens: Mapping[str, object], *, clock: Clock | None = None
    ) -> None:
        """`sources` holds the template named "default", and perhaps "tool_use" for requests with tools.

        A template that does not compile is kept as an error for the requests that need it: the model can
        still complete plain text.
        """
        self._clock = clock or SystemClock()
        self._tokens = dict(tokens)
        self._sandbox = TemplateSandbox()
        self._sandbox.filters["tojson"] = _tojson
        self._sandbox.globals["raise_exception"] = _raise_exception
        self._sandbox.globals["strftime_now"] = self._strftime_now
        self._sources = dict(sources)
        self.tool_syntax: ToolSyntax | None = tool_syntax("\n".join(sources.values()))
        """How this model writes calls; None where it cannot be given tools."""
        self._compiled = {name: self._compile(source) for name, source in sources.items()}

    @classmethod
    def load(cls, source: TextSource) -> ChatTemplate:
        """From `chat_template.jinja`, else `tokenizer_config.json` (one template, or a list of named ones)."""
        config = read_json(source, TOKENIZER_CONFIG)
        own_file = read_optional(source, TEMPLATE_FILE)
        if own_file is not None:
            sources = {"default": own_file.decode("utf-8", "replace")}
        else:
            sources = _named_sources(config.get("chat_template"))
        return cls(sources, template_tokens(config))

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text. `content` may be text, None (empty), or a list of `{"type": "text", "text": …}`.

        Raises: InvalidRequestError naming `messages` when the model has no template, or it fails on these
        messages or exceeds its budget; UnsupportedFieldError for content that is not text.
        """
        name = "tool_use" if tools and "tool_use" in self._compiled else "default"
        template = self._compiled.get(name)
        if template is None:
            raise InvalidRequestError(
                "messages: this model has no chat template; send plain text to /v1/completions",
                param="messages",
            )
        if isinstance(template, InvalidRequestError):
            raise template
        keeps_developer = "developer" in self._sources[name]
        variables = {
            **self._tokens,
            "messages": [_message(index, each, keeps_developer) for index, each in enumerate(messages)],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._sandbox.render_bounded(template, variables)
        except _FOREIGN_ERRORS as error:
            raise _refused("refused them", error) from error

    def _compile(self, source: str) -> Template | InvalidRequestError:
        try:
            if len(source) > MAX_SOURCE_CHARS:
                raise ValueError(f"longer than {MAX_SOURCE_CHARS} characters")
            return self._sandbox.bounded_template(source)
        except _FOREIGN_ERRORS as error:
            return _refused("does not compile; use /v1/completions", error)

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > MAX_DATE_FORMAT_CHARS or any(char.isdigit() for char in pattern):
            raise ValueError("strftime_now: not a date format")
        return datetime.fromtimestamp(self._clock.wall_s()).strftime(pattern)


def _refused(what: str, error: Exception) -> InvalidRequestError:
    reason = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    return InvalidRequestError(f"messages: the model's chat template {what} ({reason})", param="messages")


def _named_sources(value: object) -> dict[str, str]:
    """`tokenizer_config.json`'s `chat_template` as name → source."""
    if isinstance(value, str):
        return {"default": value}
    found: dict[str, str] = {}
    for item in value if isinstance(value, list) else []:
        name, source = (item.get("name"), item.get("template")) if isinstance(item, Mapping) else (None, None)
        if isinstance(name, str) and isinstance(source, str):
            found[name] = source
    return found


def _message(index: int, message: Mapping[str, object], keeps_developer: bool) -> dict[str, object]:
    """The message as templates expect it: content as one string, and a role that the template knows."""
    text = _content_text(index, message.get("content"))
    role = message.get("role")
    if role == "developer" and not keeps_developer:
        role = "system"  # most templates drop a role that they do not know, and with it the instructions
    return {**message, "role": role, "content": text}


def _content_text(index: int, content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    param = f"messages[{index}].content"
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param}: expected text or a list of text parts", param=param)
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise UnsupportedFieldError(f"{param}: only parts of type text are supported", param=param)
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidRequestError(f"{param}: a text part needs a string in `text`", param=param)
        texts.append(text)
    return "".join(texts)


def _raise_exception(message: str) -> NoReturn:
    """A template's own complaint, e.g. that roles must alternate."""
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for prompts: Jinja's own `tojson` escapes `<`, `>`, `&` and `'` for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
