"""The table of ONNX rules: which function serves an op, by domain, name and version. Standard library only.

    @rule("Softmax", since=13)
    def softmax(x, *, axis=-1):
        return torch.softmax(x, axis)

A rule takes the node's inputs in order (None for one left out) and its attributes as keywords, under ONNX's names. It
returns what the node gives: one value, or a tuple of them. One that has a keyword `site` is told of its node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

__all__ = ["Rule", "find", "load_rules", "rule", "rules", "size_rule"]

Function = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """An op from version `since` of its schema on, until the next rule of the same op.

    attributes: those it knows, with None for any. site: whether it wants the keyword `site`.
    """

    domain: str
    op: str
    since: int
    function: Function
    attributes: frozenset[str] | None
    site: bool


_RULES: dict[tuple[str, str], dict[int, Rule]] = {}
_SIZE_RULES: dict[str, SizeRule] = {}


def rule(*ops: str, since: int = 1, domain: str = "") -> Callable[[Function], Function]:
    """Enter a function for these ops. `since` is a version of their schema (onnx.defs). Raises ValueError on a second
    rule for the same op and version."""

    def enter(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        for op in ops:
            versions = _RULES.setdefault((domain, op), {})
            if since in versions:
                raise ValueError(f"two rules for {domain or 'ai.onnx'}.{op} since {since}")
            attributes = None if anything else named - {"site"}
            versions[since] = Rule(domain, op, since, function, attributes, "site" in named)
        return function

    return enter


@dataclass(frozen=True)
class SizeRule:
    """any_input: it takes operands of any kind. run_time: and single integers that are known when it runs. count: it
    has a keyword `count`, the number of the node's outputs."""

    function: Function
    any_input: bool
    run_time: bool
    count: bool


def size_rule(*ops: str, any_input: bool = False, run_time: bool = False) -> Callable[[Function], Function]:
    """Enter a function that computes these ops on `Sizes` (numbers known while lowering). Called like a rule when all
    operands are Sizes or small constants, and not all constant; it returns NotImplemented for what it leaves to the
    rule."""

    def enter(function: Function) -> Function:
        count = "count" in inspect.signature(function).parameters
        for op in ops:
            if op in _SIZE_RULES:
                raise ValueError(f"two size rules for {op}")
            _SIZE_RULES[op] = SizeRule(function, any_input, run_time, count)
        return function

    return enter


def find(domain: str, op: str, version: int) -> Rule | None:
    """The rule with the newest `since` that is not above `version`, the schema version that the model's opset means."""
    versions = _RULES.get((domain, op), {})
    since = max((s for s in versions if s <= version), default=None)
    return None if since is None else versions[since]


def find_size_rule(domain: str, op: str) -> SizeRule | None:
    return _SIZE_RULES.get(op) if domain == "" else None


def rules() -> list[Rule]:
    """All of them, by domain, op and version."""
    return [_RULES[key][since] for key in sorted(_RULES) for since in sorted(_RULES[key])]


def load_rules() -> None:
    """Import every file of rules/."""
    package = import_module(f"{__package__}.rules")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
