# SPDX-License-Identifier: Apache-2.0
"""How a family of models writes calls of functions. A table; reads chat templates, parses no answer.

    hermes    <tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>, again for each call (Hermes, Qwen 2.5 and 3)
    mistral   [TOOL_CALLS][{"name": …, "arguments": {…}}, …]
    llama3    {"name": …, "parameters": {…}} as the whole answer, perhaps after <|python_tag|>; several joined by ;

Source: the chat templates of NousResearch Hermes 2 Pro, Qwen 2.5, Mistral 7B v0.3 and Llama 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ToolSyntax:
    """`opening` starts a call or a list of them, `closing` ends it ("" where nothing does).

    `fillers` may stand around the objects within. `is_bare`: an answer that starts with an object is a call, too.
    `before`, `between` and `after` are what the model is made to write where it must call.
    """

    name: str
    opening: str
    closing: str
    arguments_key: str
    fillers: str = ""
    is_bare: bool = False
    before: str = ""
    between: str = ""
    after: str = ""


HERMES: Final = ToolSyntax(
    "hermes", "<tool_call>", "</tool_call>", "arguments", before="\n", between="\n", after="\n"
)
MISTRAL: Final = ToolSyntax(
    "mistral", "[TOOL_CALLS]", "]", "arguments", fillers="[,", before="[", between=", "
)
LLAMA3: Final = ToolSyntax(
    "llama3", "<|python_tag|>", "", "parameters", fillers=";,", is_bare=True, between="; "
)

_OTHER_SYNTAX: Final = ("<function=", "[ARGS]", "<arg_key>", "<|tool_call_begin|>", "<|channel|>")
"""Marks of templates whose calls look alike from afar and are not: refused rather than misread."""
_BY_MARK: Final = (("[TOOL_CALLS]", MISTRAL), ("<tool_call>", HERMES), ("<|python_tag|>", LLAMA3))


def tool_syntax(template_source: str) -> ToolSyntax | None:
    """The syntax that a chat template shows; None where it knows no tools, or calls that we cannot read."""
    if "tools" not in template_source or any(mark in template_source for mark in _OTHER_SYNTAX):
        return None
    for mark, syntax in _BY_MARK:
        if mark in template_source:
            return syntax
    is_llama = "<|start_header_id|>" in template_source and '"parameters"' in template_source
    return LLAMA3 if is_llama else None
