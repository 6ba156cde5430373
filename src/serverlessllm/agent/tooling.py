# SPDX-License-Identifier: Apache-2.0
"""What a request's tools and format mean at one model: its grammar, and who reads calls out of its answers."""

from __future__ import annotations

from serverlessllm.agent.answer import CallReader
from serverlessllm.errors import UnsupportedFieldError
from serverlessllm.text.grammar import grammar_of
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.text.tool_calls import ToolCallParser
from serverlessllm.text.tool_grammar import tool_grammar
from serverlessllm.text.tool_syntax import ToolSyntax
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
from serverlessllm.wire.tools import ToolUse


class Tooling:
    """Of one request. Without tools: no reader, and the grammar of the response format."""

    def __init__(self, request: ChatRequest | CompletionRequest, text: TextModel) -> None:
        """Raises: UnsupportedFieldError naming `tools` when the model's template knows none."""
        self.use = request.tool_use if isinstance(request, ChatRequest) else ToolUse()
        self.syntax: ToolSyntax | None = text.tool_syntax
        self._text = text
        self._response_format = request.response_format
        if self.use.tools and self.syntax is None:
            raise UnsupportedFieldError(
                "tools: this model's chat template knows no tools, or calls in a syntax that is not read here; "
                "use a model that was trained to call functions",
                param="tools",
            )

    @property
    def grammar(self) -> str:
        """What the answer is held to; empty for free text. Raises as `tool_grammar`."""
        use = self.use
        if self.syntax is None or not use.tools:
            return grammar_of(self._response_format)
        response_format = self._response_format
        is_free = grammar_of(response_format) == ""
        if is_free and not use.is_held_to_schemas:
            return ""
        return tool_grammar(self.syntax, use, response_format, self._text.special_id)

    def reader(self) -> CallReader | None:
        """A fresh one for one choice; None where nothing may be called."""
        if self.syntax is None or not self.use.tools:
            return None
        markers = {
            token_id: marker
            for marker in (self.syntax.opening, self.syntax.closing)
            if marker and (token_id := self._text.special_id(marker)) is not None
        }
        parser = ToolCallParser(self.syntax, {function.name for function in self.use.tools})
        return CallReader(parser, markers, is_single=not self.use.may_repeat)
