# SPDX-License-Identifier: Apache-2.0
"""A Jinja environment for templates that came with a stranger's model: sandboxed and bounded.

Jinja's sandbox forbids attributes and changes, not work: `{% for %}` in `{% for %}`, a macro that calls itself
twice, or `x ~ x` in a loop run for years or eat all memory. Here every rendering has a budget of steps (loop
rounds and calls) and of characters, counted where a template can multiply either: `* ** + ~ %`, set blocks,
calls, `join`, `replace`, and numbers that are widths or counts. That stops runaway templates and the known
bombs; it is no memory limit of the process, and registering a model stays an administrator's act.
Knows no messages.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from jinja2 import Environment, Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS: Final = 500_000
MAX_TEXT_CHARS: Final = 16 << 20
MAX_TOTAL_CHARS: Final = 256 << 20
MAX_INT_BITS: Final = 4096
_BUDGET: Final = "rendering budget"  # the space keeps the name out of a template's reach
_WIDE_FIELD: Final = re.compile(r"[0-9]{5}")


class RenderBudget:
    """What one rendering may still do. Each method raises SecurityError when it is exhausted."""

    def __init__(self) -> None:
        self._steps = 0
        self._chars = 0

    def step(self) -> None:
        """Count a loop round or a call."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} loop rounds and calls")

    def produce(self, num_chars: int) -> None:
        """Count a text or list of that length."""
        _refuse_chars(num_chars)
        self._chars += num_chars
        if self._chars > MAX_TOTAL_CHARS:
            raise SecurityError(f"more than {MAX_TOTAL_CHARS} characters handled in all")

    def check(self, value: Any) -> Any:
        """Count `value` if it is a text or list just made, and return it."""
        if isinstance(value, str | bytes | list | tuple):
            self.produce(len(value))
        return value


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for training; it renders as its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The tag's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Compiles templates so that everything they repeat is counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag])
        self.filters = {name: _bounded_filter(name, func) for name, func in self.filters.items()}
        self.filters["bounded_rounds"] = _bounded_rounds
        self.filters["bounded_text"] = _bounded_text

    def bounded_template(self, source: str) -> Template:
        """Compile. Raises jinja2.TemplateSyntaxError, RecursionError."""
        tree = _Bounds().visit(self.parse(source))
        tree.set_environment(self)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render_bounded(self, template: Template, variables: dict[str, Any]) -> str:
        """Render within one budget. Raises whatever the template raises; SecurityError when it is spent."""
        budget = RenderBudget()
        pieces: list[str] = []
        num_chars = 0
        for piece in template.generate({**variables, _BUDGET: budget}):
            num_chars += len(piece)
            if num_chars > MAX_TEXT_CHARS:
                raise SecurityError(f"output longer than {MAX_TEXT_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template comes through here; positional-only, so that keywords are the template's."""
        budget = _budget(context)
        budget.step()
        owner = getattr(inspect.unwrap(obj), "__self__", None)  # the sandbox wraps `str.format`
        if isinstance(owner, str | bytes | int):
            _refuse_huge((*args, *kwargs.values()))
        if isinstance(owner, str):
            _refuse_growth(getattr(obj, "__name__", ""), owner, args)
        return budget.check(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+ * ** %`: refuse results that would be huge before they are made."""
        budget = _budget(context)
        if operator in ("*", "**"):
            _refuse_product(operator, left, right)
        elif operator == "%" and isinstance(left, str):
            _refuse_wide(left)
            _refuse_huge(right if isinstance(right, tuple) else (right,))
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, type(left)):
            _refuse_chars(len(left) + len(right))
        return budget.check(super().call_binop(context, operator, left, right))


class _Bounds(NodeTransformer):
    """Sends what `for` iterates over, what `~` joins and what `{% set %}` blocks collect through the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the visitor's naming
        self.generic_visit(node)
        node.iter = _filter(node.iter, "bounded_rounds")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "bounded_text")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:  # noqa: N802
        self.generic_visit(node)
        node.filter = _filter(node.filter, "bounded_text")
        return node


def _filter(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=getattr(node, "lineno", 1))


def _budget(context: Context) -> RenderBudget:
    budget = context.get(_BUDGET)
    if not isinstance(budget, RenderBudget):
        raise SecurityError("a template reached outside its rendering")
    return budget


@pass_context
def _bounded_rounds(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for item in items:
        budget.step()
        yield item


@pass_context
def _bounded_text(context: Context, value: Any) -> Any:
    return _budget(context).check(value)


def _bounded_filter(name: str, func: Callable[..., Any]) -> Callable[..., Any]:
    """`func` with its arguments and its result checked; keeps the marks that say what Jinja passes first."""

    @functools.wraps(func)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *others = (arg for arg in args if not isinstance(arg, Context | EvalContext | Environment))
        _refuse_huge((*others, *kwargs.values()))
        if name == "join":
            value, others = (others[0] if others else kwargs.get("d", "")), [value]
        if isinstance(value, str):
            _refuse_growth(name, value, others)
        result = func(*args, **kwargs)
        if isinstance(result, str | list):
            _refuse_chars(len(result))
        return result

    return bounded


def _refuse_growth(name: str, text: str, args: Sequence[Any]) -> None:
    """`text.name(*args)`: the operations whose result may be the product of their operands."""
    if name.startswith("format"):
        _refuse_wide(text)
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _refuse_chars(sum(len(text) + (len(item) if isinstance(item, str) else 0) for item in args[0]))
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        _refuse_chars(len(text) + text.count(args[0]) * len(args[1]))


def _refuse_chars(num_chars: int) -> None:
    if num_chars > MAX_TEXT_CHARS:
        raise SecurityError(f"text longer than {MAX_TEXT_CHARS} characters")


def _refuse_huge(arguments: Iterable[Any]) -> None:
    """A number as large as that is a width, a count or an indent: the result would fill the memory."""
    if any(isinstance(value, int) and abs(value) > MAX_RANGE for value in arguments):
        raise SecurityError(f"a number above {MAX_RANGE} as an argument")


def _refuse_wide(pattern: str) -> None:
    if _WIDE_FIELD.search(pattern):
        raise SecurityError("a format with a field wider than 9999 characters")


def _refuse_product(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        factor = abs(right) if operator == "**" else 1
        if left.bit_length() * factor + right.bit_length() > MAX_INT_BITS:
            raise SecurityError("a number of more than 4096 bits")
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | bytes | list | tuple) and isinstance(count, int):
                _refuse_chars(len(sequence) * max(count, 0))
