"""The branches of a chat template that depend on what messages say: which they are, which way they went, and what they write when
they are made to go the other. Names and constants decide nothing here; a branch is judged by what it writes when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

TEXTS = {"content", "text", "reasoning_content", "reasoning", "thinking", "arguments"}  # keys under which messages hold words
STRUCTURE = {"role", "type", "name", "tool_calls", "function", "id", "tool_call_id", "image", "image_url", "video", "audio", "parameters"}
KINDS = {"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "number", "integer"}  # tests of form
PASSING = {"length", "count", "list", "first", "last", "reverse", "slice", "batch"}  # filters that show a list of messages, not its words


def constants(tree: nodes.Template) -> tuple[list[str], list[int]]:
    """The texts and the numbers that a template holds or that fold to a constant, in order."""
    texts: dict[str, None] = {}
    numbers: dict[int, None] = {}

    def take(value: Any) -> None:
        if isinstance(value, str):
            texts[str(value)] = None
        elif isinstance(value, int) and not isinstance(value, bool):
            numbers[value] = None
        elif isinstance(value, Mapping):
            take([*value.keys(), *value.values()])
        elif isinstance(value, list | tuple | set):
            for part in value:
                take(part)

    for node in tree.find_all(nodes.Expr):
        try:
            take(node.as_const(nodes.EvalContext(tree.environment, None)))  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 (no constant, or none that its own code can make)
            continue
    return [text for text in texts if text.strip()], list(numbers)


class Flow:
    """Which expressions of a template depend on the words of messages. It says too much rather than too little."""

    def __init__(self, tree: nodes.Template) -> None:
        self._names: set[str] = set()
        self._attributes: set[tuple[str, str]] = set()
        macros = {macro.name: [arg.name for arg in macro.args] for macro in tree.find_all(nodes.Macro)}
        known = -1
        while known != len(self._names) + len(self._attributes):
            known = len(self._names) + len(self._attributes)
            for node in tree.body:
                self._follow(node, False)
            for call in tree.find_all(nodes.Call):
                if isinstance(call.node, nodes.Name) and call.node.name in macros and self._any(call):
                    self._names |= {*macros[call.node.name], call.node.name}

    def reads(self, node: nodes.Node) -> bool:
        """Whether the value of an expression depends on words."""
        if isinstance(node, nodes.Name):
            return node.name in self._names
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
            if isinstance(key, str) and key in TEXTS | STRUCTURE:
                return key in TEXTS
            if isinstance(node.node, nodes.Name) and (node.node.name, key) in self._attributes:
                return True
        if isinstance(node, nodes.Test) and node.name in KINDS:
            return False
        if isinstance(node, nodes.Filter):
            if any(isinstance(arg, nodes.Const) and arg.value in TEXTS for arg in [*node.args, *(pair.value for pair in node.kwargs)]):
                return True
            if node.name not in PASSING and isinstance(node.node, nodes.Name) and "messages" in node.node.name:
                return True
        return self._any(node)

    def _any(self, node: nodes.Node) -> bool:
        return any(self.reads(child) for child in node.iter_child_nodes())

    def _taint(self, target: nodes.Node) -> None:
        if isinstance(target, nodes.Name):
            self._names.add(target.name)
        elif isinstance(target, nodes.NSRef):
            self._attributes.add((target.name, target.attr))
        else:
            for child in target.iter_child_nodes():
                self._taint(child)

    def _follow(self, node: nodes.Node, under: bool) -> None:
        """``under``: whether words decide if the node runs at all."""
        if isinstance(node, nodes.Assign | nodes.AssignBlock):
            value = [node.node] if isinstance(node, nodes.Assign) else node.body
            if under or any(self.reads(part) for part in value):
                self._taint(node.target)
        if isinstance(node, nodes.For) and self.reads(node.iter):
            self._taint(node.target)
        under = under or (isinstance(node, nodes.If) and self.reads(node.test))
        for child in node.iter_child_nodes():
            self._follow(child, under)


class _Marking(NodeTransformer):
    def __init__(self, flow: Flow, mark: str) -> None:
        self.flow, self.mark, self.count = flow, mark, 0

    def _marked(self, test: Any) -> Any:
        if not self.flow.reads(test):
            return test
        place = nodes.Const(self.count, lineno=test.lineno)
        self.count += 1
        return nodes.Call(nodes.Name(self.mark, "load", lineno=test.lineno), [place, test], [], None, None, lineno=test.lineno)

    def visit_If(self, node: nodes.If) -> nodes.Node:
        node.test = self._marked(node.test)
        return self.generic_visit(node)

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
        node.test = self._marked(node.test)
        return self.generic_visit(node)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node.test = node.test and self._marked(node.test)
        return self.generic_visit(node)


def mark_branches(tree: nodes.Template, mark: str) -> int:
    """Put a call of ``mark(number, condition)`` around every condition that depends on words; how many there are."""
    marking = _Marking(Flow(tree), mark)
    marking.visit(tree)
    return marking.count


class Ways:
    """Which way every marked branch went, and which way it is made to go."""

    def __init__(self) -> None:
        self.went: set[tuple[int, bool]] = set()
        self.forced: dict[int, bool] = {}

    def __call__(self, number: int, value: Any) -> Any:
        if number in self.forced:
            return self.forced[number]
        self.went.add((number, bool(value)))
        return value

    def force(self, number: int, way: bool, run: Callable[[], str]) -> str:
        """What is written when one branch goes this way whatever is said."""
        before = set(self.went)
        self.forced = {number: way}
        try:
            return run()
        finally:
            self.forced, self.went = {}, before

    def untried(self, count: int) -> Iterator[tuple[int, bool]]:
        """The ways that no branch went."""
        return ((number, way) for number in range(count) for way in (True, False) if (number, way) not in self.went)
