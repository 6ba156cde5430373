# SPDX-License-Identifier: Apache-2.0
"""Chat templates that know tools, one for each syntax of calls, in the manner of the models that write it."""

from __future__ import annotations

from typing import Final

_TURNS: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ call(c) }}{% endfor %}"
    "{% if m.role == 'tool' %} of {{ m.name }} {{ m.tool_call_id }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TOOLS: Final = (
    "{% if tools %}<|im_start|>system\n"
    "{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
)

HERMES_TEMPLATE: Final = (
    '{% macro call(c) %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endmacro %}" + _TOOLS + _TURNS
)
MISTRAL_TEMPLATE: Final = (
    '{% macro call(c) %}{% if c.id | length != 9 %}{{ raise_exception("ids have 9 characters") }}{% endif %}'
    '[TOOL_CALLS][{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}]{% endmacro %}' + _TOOLS + _TURNS
)
LLAMA3_TEMPLATE: Final = (
    '{% macro call(c) %}<|python_tag|>{"name": "{{ c.function.name }}", "parameters": '
    "{{ c.function.arguments | tojson }}}{% endmacro %}" + _TOOLS + _TURNS
)
