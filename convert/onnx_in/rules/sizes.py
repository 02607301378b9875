"""Arithmetic on small tensors that are known while lowering, as numbers or as sizes of an input.

What exporters write as chains of Shape, Gather, Mul and Concat becomes plain numbers in the generated code. An element
is a number or a proxy of one; one of a float tensor may be a Python int, too. What only moves elements is in
size_moves.py.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from ..operands import Sizes, leaf, recorder_of, shape_of
from ..registry import rule, size_rule

I64_MAX = 2**63 - 1
FLOATS = (1, 11)  # element types, of onnx.TensorProto.DataType
BOOL = 9


class Unknown(Exception):
    """What would have to be computed is left to the rule of tensors."""


# --------------------------------------------------------------------------------------------------------- as a tensor
@leaf
def from_sizes(items: Any, shape: Any, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
    """Numbers as a tensor of this shape."""
    if not items:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.stack([torch.scalar_tensor(i, dtype=dtype, device=device) for i in items]).reshape(shape)


@leaf
def shape_tensor(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """The shape of a tensor whose rank is known at run time only, as an int64 tensor."""
    items = list(x.shape)[start:end]
    return from_sizes(items, (len(items),), torch.int64, x.device)


def dims_of(x: Any) -> tuple[Any, ...] | None:
    """The dims of a tensor, each a number or a proxy of one; None where the rank is unknown."""
    shape = shape_of(x)
    if shape is None:
        return None
    made = made_dims(x)
    if made is None or len(made) != len(shape):
        made = [None] * len(shape)
    return tuple(
        d if isinstance(d, int) else x.size(i) if m is None else m
        for i, (d, m) in enumerate(zip(shape, made, strict=True))
    )


def made_dims(x: Any) -> list[Any] | None:
    """What `of_dims` said of an operand."""
    found = x.node.meta.get("dims") if recorded(x) else None
    return None if found is None else list(found)


def of_dims(x: Any, dims: Any, filler: Any = None) -> Any:
    """x, whose dims the rules of later nodes then know: numbers or proxies, None for an unknown one. filler: what all
    of its elements are."""
    if recorded(x):
        x.node.meta.update(dims=tuple(dims), filler=filler)
    return x


@size_rule("Shape", any_input=True)
def _shape(x: Any, *, start: int = 0, end: int = I64_MAX) -> Any:
    if shape_source(x) is not None:
        return Sizes.of((shape_source(x).dim(),)[start:end])
    dims = x.array.shape if isinstance(x, Sizes) else dims_of(x)
    return NotImplemented if dims is None else Sizes.of(dims[start:end])


@rule("Shape")
def shape(x: Any, *, start: int = 0, end: int = I64_MAX) -> Any:
    made: Any = shape_tensor(x, start, end)
    if recorded(made) and start == 0 and end == I64_MAX:
        made.node.meta["shape_of"] = x
    return made


def shape_source(x: Any) -> Any:
    """The operand of unknown rank whose whole shape x is, if x is one; else None."""
    return x.node.meta.get("shape_of") if recorded(x) else None


@size_rule("Size", any_input=True)
def _size(x: Any) -> Any:
    dims = x.array.shape if isinstance(x, Sizes) else dims_of(x)
    return Sizes.scalar(x.numel() if dims is None else product(dims))


@rule("Size")
def size(x: Any) -> Any:
    return from_sizes([x.numel()], (), torch.int64, x.device)


# ------------------------------------------------------------------------------------------- what is known of a number
def recorded(x: Any) -> bool:
    return isinstance(x, fx.Proxy)


def nonnegative(x: Any) -> bool:
    """Whether a number is known not to be negative: sizes are not, nor what + * // % make of them."""
    if recorded(x) and x.node.target is operator.mod and isinstance(x.node.args[1], int):
        return x.node.args[1] > 0
    return _everywhere(x, lambda v: v >= 0, (operator.add, operator.mul, operator.floordiv))


def integral(x: Any) -> bool:
    """Whether a number is known to be an integer, though its tensor may be of floats."""
    if recorded(x) and x.node.target in _TO_INTEGER:
        return True
    return _everywhere(x, lambda v: isinstance(v, int), _EXACT)


def _everywhere(x: Any, holds: Callable[[Any], bool], kept: tuple[Any, ...]) -> bool:
    """Whether something holds of all numbers of an expression made by the functions that keep it."""
    if not recorded(x):
        return bool(holds(x))
    node = x.node
    if node.op == "placeholder" and "outer" in node.meta:  # a size that a subgraph is given
        return _everywhere(node.meta["outer"], holds, kept)
    if node.op == "call_method":
        return node.target in ("size", "numel", "dim")
    operands = (x.tracer.proxy(a) if isinstance(a, fx.Node) else a for a in node.args)
    return node.op == "call_function" and node.target in kept and all(_everywhere(a, holds, kept) for a in operands)


def same(a: Any, b: Any) -> bool:
    """Whether two numbers are known to be equal: the same expression of the same operands."""
    if recorded(a) and recorded(b):
        return _same(a.node, b.node)
    return not recorded(a) and not recorded(b) and bool(a == b)


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return type(a) is type(b) and bool(a == b)
    if a is b:
        return True
    alike = (a.op, a.target, len(a.args)) == (b.op, b.target, len(b.args)) and not a.kwargs and not b.kwargs
    pure = a.target in ("size", "numel", "dim") or a.target in _EXACT
    return alike and pure and all(_same(x, y) for x, y in zip(a.args, b.args, strict=True))


# ---------------------------------------------------------------------------------------------------------- on numbers
def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of Python now, or record its call."""
    recorder = recorder_of(args)
    return function(*args) if recorder is None else recorder.create_proxy("call_function", function, args, {})


@leaf
def rounded(x: Any) -> Any:
    """A Python float rounded to single precision, which the model computes in. Symbolic ones are left."""
    return float(np.float32(x)) if isinstance(x, float) else x


@leaf
def divided(a: Any, b: Any) -> Any:
    """Integer division towards zero."""
    a, b = (a, b) if b > 0 else (-a, -b)
    return a // b if a >= 0 else -(-a // b)


@leaf
def chosen(condition: Any, a: Any, b: Any) -> Any:
    """One of two numbers."""
    return a if condition else b


def product(items: Any) -> Any:
    """The numbers among the factors go into one."""
    items = tuple(items)
    result: Any = math.prod(i for i in items if not recorded(i))
    for item in (i for i in items if recorded(i)):
        result = item if not recorded(result) and result == 1 else result * item
    return result


def _add(a: Any, b: Any) -> Any:
    if not recorded(a) and a == 0:
        return b
    return a if not recorded(b) and b == 0 else a + b


def _subtract(a: Any, b: Any) -> Any:
    return a if not recorded(b) and b == 0 else a - b


def _divide(a: Any, b: Any) -> Any:
    if not recorded(b):
        if b == 0:
            raise Unknown
        if b == 1:
            return a
    return a // b if nonnegative(a) and nonnegative(b) else divided(a, b)


def _true_divide(a: Any, b: Any) -> Any:
    if not recorded(b) and b == 0:
        raise Unknown
    return a if not recorded(b) and b == 1 else a / b


def _modulo(a: Any, b: Any) -> Any:
    if not recorded(b) and b == 0:
        raise Unknown
    return a % b


def _absolute(a: Any) -> Any:
    return a if nonnegative(a) else call(abs, a)


def smaller(a: Any, b: Any) -> Any:
    return a if same(a, b) else call(torch.sym_min, a, b)


def larger(a: Any, b: Any) -> Any:
    if same(a, b) or (nonnegative(a) and not recorded(b) and b <= 0):
        return a
    return b if nonnegative(b) and not recorded(a) and a <= 0 else call(torch.sym_max, a, b)


def _floor(a: Any) -> Any:
    return a if integral(a) else call(math.floor, a)


def _ceil(a: Any) -> Any:
    return a if integral(a) else call(math.ceil, a)


def _round(a: Any) -> Any:
    return a if integral(a) else call(round, a)


def _root(a: Any) -> Any:
    if not nonnegative(a):
        raise Unknown
    return a**0.5


def _choose(condition: Any, a: Any, b: Any) -> Any:
    if same(a, b):
        return a
    return chosen(condition, a, b) if recorded(condition) else a if condition else b


def _compare(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A comparison that knows that sizes are not negative."""

    def compare(a: Any, b: Any) -> Any:
        if same(a, b):
            return function(0, 0)
        if recorded(a) != recorded(b):
            if nonnegative(a) and not recorded(b) and b < 0:
                return function(0, b)
            if nonnegative(b) and not recorded(a) and a < 0:
                return function(a, 0)
        return function(a, b)

    return compare


def _negate(a: Any) -> Any:
    return call(operator.not_, a)


def _both(a: Any, b: Any) -> Any:
    known = [x for x in (a, b) if not recorded(x)]
    if not known:
        raise Unknown
    return (b if known[0] is a else a) if known[0] else False


def _either(a: Any, b: Any) -> Any:
    known = [x for x in (a, b) if not recorded(x)]
    if not known:
        raise Unknown
    return True if known[0] else (b if known[0] is a else a)


_EXACT: tuple[Any, ...] = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)
_EXACT += (torch.sym_min, torch.sym_max, divided, chosen, abs)
_TO_INTEGER = (math.floor, math.ceil, round, torch.sym_int)


# --------------------------------------------------------------------------------------------------------- on elements
def elementwise(function: Callable[..., Any], *xs: Sizes, element: int) -> Any:
    """Broadcast; NotImplemented where an element is left to the rule."""
    try:
        made = np.frompyfunc(function, len(xs), 1)(*(x.array for x in xs))
    except Unknown:
        return NotImplemented
    return Sizes(made, element) if isinstance(made, np.ndarray) else Sizes.scalar(made, element)


def _exact(a: Any, b: Any) -> bool:
    """Whether the product with a size is exact in single precision: by a short binary fraction."""
    factors = [x for x in (a, b) if not recorded(x)]
    return bool(factors) and abs(factors[0]) <= 4096 and factors[0] * 64 == int(factors[0] * 64)


def _single(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic of single precision; Python computes in double."""

    def compute(*xs: Any) -> Any:
        result = function(*xs)
        if integral(result) or (function is _multiply and _exact(*xs)):
            return result
        return rounded(result)

    return compute


def _multiply(a: Any, b: Any) -> Any:
    return product((a, b))


def _arithmetic(op: str, on_integers: Callable[..., Any] | None, on_floats: Callable[..., Any] | None = None) -> None:
    def apply(*xs: Sizes, **attributes: Any) -> Any:
        element = xs[0].element
        function = on_floats if element in FLOATS else on_integers
        if function is None or element == BOOL or any(attributes.values()):
            return NotImplemented
        function = _single(function) if element == 1 else function
        if len(xs) == 1:
            return elementwise(function, *xs, element=element)
        return functools.reduce(
            lambda a, b: a if a is NotImplemented else elementwise(function, a, b, element=element), xs
        )

    size_rule(op)(apply)


_arithmetic("Add", _add, _add)
_arithmetic("Sub", _subtract, _subtract)
_arithmetic("Mul", _multiply, _multiply)
_arithmetic("Div", _divide, _true_divide)
_arithmetic("Mod", _modulo)
_arithmetic("Min", smaller, smaller)
_arithmetic("Max", larger, larger)
_arithmetic("Neg", operator.neg, operator.neg)
_arithmetic("Abs", _absolute, _absolute)
_arithmetic("Floor", None, _floor)
_arithmetic("Ceil", None, _ceil)
_arithmetic("Round", None, _round)
_arithmetic("Sqrt", None, _root)


def _logical(op: str, function: Callable[..., Any], on: tuple[int, ...]) -> None:
    def apply(*xs: Sizes) -> Any:
        return elementwise(function, *xs, element=BOOL) if all(x.element in on for x in xs) else NotImplemented

    size_rule(op)(apply)


for _op, _function in {
    "Equal": operator.eq,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
}.items():
    _logical(_op, _compare(_function), (1, 6, 7, 11))
_logical("Not", _negate, (BOOL,))
_logical("And", _both, (BOOL,))
_logical("Or", _either, (BOOL,))


@size_rule("Where")
def _where(condition: Sizes, a: Sizes, b: Sizes) -> Any:
    return elementwise(_choose, condition, a, b, element=a.element)


@size_rule("Cast")
def _cast(x: Sizes, *, to: int, **_: Any) -> Any:
    """To floats the integers stay; from floats they are cut off."""
    if to == x.element:
        return x
    if to in FLOATS and x.element in (*FLOATS, 6, 7):
        return Sizes(x.array, to)
    if to in (6, 7) and x.element in (6, 7):
        return Sizes(x.array, to)
    if to in (6, 7) and x.element in FLOATS:
        return elementwise(lambda a: a if integral(a) else call(torch.sym_int, a), x, element=to)
    return NotImplemented
