# SPDX-License-Identifier: Apache-2.0
"""Chat templates: what Hugging Face templates may rely on, and what a hostile one may not do."""

from __future__ import annotations

import pytest

from serverlessllm.errors import InvalidRequestError, UnsupportedFieldError
from serverlessllm.text.chat_template import ChatTemplate
from support.memory_source import MemorySource

USER = [{"role": "user", "content": "Hi <b>"}]


class FixedClock:
    def monotonic_s(self) -> float:
        return 0.0

    def wall_s(self) -> float:
        return 1_000_000_000.0


def render(source: str, messages: list[dict[str, object]] | None = None, **tokens: object) -> str:
    template = ChatTemplate({"default": source}, tokens, clock=FixedClock())
    return template.render(USER if messages is None else messages)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>Hi <b>"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}", "x\n"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi <b>"}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(indent=1) }}", '{\n "b": "é",\n "a": 1\n}'),
        ("{{ strftime_now('%Y-%m') }}", "2001-09"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{% for m in messages %}{{ loop.last }} {{ loop.length }}{% endfor %}", "True 1"),
        ("{% set x %}a{{ bos_token }}{% endset %}{{ x ~ 'b' + 'c' * 2 }}", "a<s>bcc"),
        ("{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m('1') | trim | replace('1', '2') }}", "[2]"),
        ("{{ ['a', 'b'] | join(', ') }} {{ '%d-%s' % (7, 'x') }} {{ 1234567 | string }}", "a, b 7-x 1234567"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = 5 %}{% endfor %}{{ ns.n }}", "5"),
        ("{% if tools is none and tools is not defined %}{% else %}ok{% endif %}", "ok"),
    ],
)
def test_template_renders_as_hugging_face_renders_it(source: str, expected: str) -> None:
    assert render(source, bos_token="<s>") == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(9999999) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{% set x = 'a' * 10000 %}{{ (x | replace('a', x)) | replace('a', x) }}",
        "{% set x = 'a' * 100000 %}{{ ([x] * 1000) | join }}",
        "{% set x = 'a' * 100000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
        "{{ strftime_now('%999999999d') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}{{ raise_exception.__globals__ }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ messages + 1 }}",
        "{% include 'other' %}",
        "{% for %}",
        "{{ nosuchfilter | nosuch }}",
    ],
)
def test_runaway_or_broken_template_is_refused_naming_messages(source: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render(source)
    assert caught.value.param == "messages"
    assert len(caught.value.message) < 500


def test_template_complaint_reaches_the_caller() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_text_parts_are_joined_and_none_is_empty() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert render("{% for m in messages %}[{{ m.content }}]{% endfor %}", messages) == "[ab][]"


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {"url": "x"}}], ["text"]])
def test_part_that_is_not_text_is_unsupported(content: list[object]) -> None:
    with pytest.raises(UnsupportedFieldError) as caught:
        render("{{ messages }}", [{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content"


@pytest.mark.parametrize("content", [7, [{"type": "text", "text": 7}]])
def test_content_of_wrong_type_is_refused_naming_it(content: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render("{{ messages }}", [{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content"


def test_developer_becomes_system_unless_the_template_knows_it() -> None:
    messages: list[dict[str, object]] = [{"role": "developer", "content": "x"}]
    assert render("{{ messages[0].role }}", messages) == "system"
    assert render("{{ messages[0].role }}{# developer #}", messages) == "developer"


def test_template_file_wins_over_the_tokenizer_config() -> None:
    source = MemorySource(chat_template="from the file")
    assert ChatTemplate.load(source).render(USER) == "from the file"


def test_tool_use_template_is_taken_when_tools_are_sent() -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tool"},
    ]
    template = ChatTemplate.load(MemorySource(tokenizer_config={"chat_template": named}))
    assert template.render(USER) == "plain"
    assert template.render(USER, tools=[{"type": "function"}]) == "1 tool"


def test_model_without_a_template_points_to_completions() -> None:
    template = ChatTemplate.load(MemorySource(tokenizer_config={}))
    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        template.render(USER)
