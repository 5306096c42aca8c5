"""What mutmut leaves out and this package needs: decorated functions, and whole statements that vanish.

mutmut passes over every decorated function, which here are the context managers, properties and no-grad functions that
do half of the work; and it never drops a call, a refusal or a context manager. It does change the words of messages,
which no test should restate. This file changes these three points, for the one version of mutmut that is pinned.
"""

from collections.abc import Iterable
from typing import Any

import libcst as cst
import libcst.matchers as m
from mutmut.mutation import file_mutation, mutators

_PLAIN = m.Decorator(m.Name("staticmethod") | m.Name("classmethod"))
_DEFINED_ONCE = m.Decorator(
    m.Name("contextmanager") | m.Name("property") | m.Name("cached_property")
    | m.Call(m.Attribute(m.Name("torch"))) | m.Call(m.Name("model_validator"))
)  # fmt: skip
"""Decorators that stay outside while what they decorate is exchanged."""


_LENGTHS = m.Arg(keyword=m.Name("strict"))
_STRICT = m.Arg(keyword=m.Name("strict"), value=m.Name("True"))
_REPLACED = (mutators.operator_string, mutators.operator_arg_removal)


def install() -> None:
    """Make mutmut work as described above, in this process and those forked from it."""
    mutators.mutation_operators = file_mutation.mutation_operators = [
        *(pair for pair in mutators.mutation_operators if pair[1] not in _REPLACED),
        (cst.Call, _without_argument),
        (cst.BaseString, _words_of_code),
        (cst.Expr, _without_call),
        (cst.Raise, _without_refusal),
        (cst.With, _without_context),
    ]
    file_mutation.MutationVisitor._skip_node_and_children = _skip(file_mutation.MutationVisitor._skip_node_and_children)
    file_mutation.MutationVisitor.on_visit = _visit(file_mutation.MutationVisitor.on_visit)
    file_mutation.function_trampoline_arrangement = _arrange(file_mutation.function_trampoline_arrangement)


def _words_of_code(node: cst.BaseString) -> Iterable[cst.BaseString]:
    """Names and keys are mutated, sentences for people are not."""
    if isinstance(node, cst.SimpleString) and " " not in node.value:
        yield from mutators.operator_string(node)


def _without_argument(node: cst.Call) -> Iterable[cst.Call]:
    """As mutmut does it, but zip keeps checking its lengths: what is zipped here has one length by construction."""
    for mutant in mutators.operator_arg_removal(node):
        if m.findall(mutant, _LENGTHS) == m.findall(node, _LENGTHS):
            yield mutant


def _without_call(node: cst.Expr) -> Iterable[cst.CSTNode]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def _without_refusal(node: cst.Raise) -> Iterable[cst.CSTNode]:
    yield cst.Pass()


def _without_context(node: cst.With) -> Iterable[cst.With]:
    """The block without one of the context managers around it, where nothing is bound to a name."""
    nothing = cst.parse_expression("__import__('contextlib').nullcontext()")
    for i, item in enumerate(node.items):
        if item.asname is None:
            yield node.with_changes(items=[*node.items[:i], item.with_changes(item=nothing), *node.items[i + 1 :]])


def _skip(original: Any) -> Any:
    def skip(self: Any, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and node.decorators and _exchangeable(node):
            return False
        if m.matches(node, _STRICT):
            return True
        return bool(original(self, node))

    return skip


def _visit(original: Any) -> Any:
    def visit(self: Any, node: cst.CSTNode) -> bool:
        """A refusal is dropped as a whole, its message is left alone; so is zip's check of its lengths."""
        deeper = bool(original(self, node))
        return deeper and not isinstance(node, cst.Raise)

    return visit


def _exchangeable(function: cst.FunctionDef) -> bool:
    return all(m.matches(decorator, _DEFINED_ONCE | _PLAIN) for decorator in function.decorators)


def _arrange(original: Any) -> Any:
    def arrange(function: cst.FunctionDef, mutants: Iterable[Any], class_name: str | None) -> Any:
        """The decorators go around the function that chooses between original and mutants, not around each of them."""
        if not any(m.matches(decorator, _DEFINED_ONCE) for decorator in function.decorators):
            return original(function, mutants, class_name)
        empty, nodes, assigned, names = original(function.with_changes(decorators=[]), mutants, class_name)
        chooser = nodes[0].with_changes(decorators=[*function.decorators, *nodes[0].decorators])
        return empty, [chooser, *nodes[1:]], assigned, names

    return arrange
