"""Values that are initializers whose elements were moved and never computed: what a Transpose, Reshape, Slice, Split or
Concat of a kernel is, as steps on the kernel.

    trace(value)      -> Moved | None     how the value comes from initializers
    Moved.resolve()   -> Resolved | None  one initializer (or a box of it), and the steps from there
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from isomorph.convert.weights import Step, Transform, apply_step

__all__ = [
    "Box",
    "Moved",
    "Resolved",
    "array_of",
    "concat",
    "constant_tensor",
    "follows",
    "integers_of",
    "same_layout",
    "shape_of",
    "simplify",
    "trace",
    "trace_from",
]

LARGEST = 1 << 26  # elements that are numbered one by one
Box = tuple[tuple[int, int], ...]  # start and stop on every axis


@dataclass(frozen=True)
class Resolved:
    """steps: from the initializer's array, or from the `part` of it (None: the whole), to the value."""

    source: ir.Value
    part: Box | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Moved:
    """sources: the initializers that elements come from. shape: of the value. steps: from the one source to the value,
    None where elements were cut away or put together. parents, function: how to compute it otherwise."""

    sources: tuple[ir.Value, ...]
    shape: tuple[int, ...]
    steps: tuple[Step, ...] | None = ()
    parents: tuple[Moved, ...] = ()
    function: Callable[..., Any] | None = None

    def transpose(self, *perm: int) -> Moved:
        step: Step = ("transpose", tuple(perm), ())
        return self._stepped(step, tuple(self.shape[p] for p in perm))

    def reshape(self, *shape: int) -> Moved:
        if -1 in shape:
            rest = -math.prod(shape)
            shape = tuple(math.prod(self.shape) // rest if d == -1 else d for d in shape)
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{self.shape} as {shape}")
        return self._stepped(("reshape", tuple(shape), self.shape), tuple(shape))

    def blocks(self, axis: int, *order: int) -> Moved:
        """The axis cut into equal blocks, and put together in this order."""
        return self._stepped(("blocks", (axis, *order), ()), self.shape)

    def take(self, axis: int, indices: Any) -> Moved:
        """These places of an axis; a number drops the axis."""
        found = np.asarray(indices)
        if found.ndim == 1 and np.array_equal(found, np.arange(self.shape[axis])):
            return self
        shape = (*self.shape[:axis], *found.shape, *self.shape[axis + 1 :])
        return Moved(self.sources, shape, None, (self,), lambda a: np.take(a, found, axis))

    def _stepped(self, step: Step, shape: tuple[int, ...]) -> Moved:
        steps = None if self.steps is None else (*self.steps, step)
        return Moved(self.sources, shape, steps, (self,), lambda a: apply_step(step, a))

    def apply(self, arrays: dict[ir.Value, np.ndarray]) -> np.ndarray:
        """The value, from the arrays of its sources."""
        if self.function is None:
            return arrays[self.sources[0]]
        return np.asarray(self.function(*(p.apply(arrays) for p in self.parents)))

    def array(self) -> np.ndarray:
        """Its elements now."""
        return self.apply({s: array_of(s) for s in self.sources})

    def resolve(self) -> Resolved | None:
        """As one initializer moved by invertible steps, or one box of it; None where it is no such thing."""
        if self.steps is not None:
            return Resolved(self.sources[0], None, simplify(self.steps, shape_of(self.sources[0])))
        sizes = [math.prod(shape_of(s)) for s in self.sources]
        if sum(sizes) > LARGEST:
            return None
        starts = np.cumsum([0, *sizes])
        numbers = {
            s: np.arange(a, a + n).reshape(shape_of(s)) for s, a, n in zip(self.sources, starts, sizes, strict=False)
        }
        found = self.apply(numbers)
        if not found.size:
            return None
        which = int(np.searchsorted(starts, found.flat[0], "right")) - 1
        source = self.sources[which]
        return recognise(source, found - starts[which], shape_of(source))


def recognise(source: ir.Value, index: np.ndarray, shape: tuple[int, ...]) -> Resolved | None:
    """What an array of element numbers of `source` is."""
    if index.min() < 0 or index.max() >= math.prod(shape):
        return None
    places = np.unravel_index(index, shape)
    box = tuple((int(p.min()), int(p.max()) + 1) for p in places)
    dims = tuple(b - a for a, b in box)
    if math.prod(dims) != index.size or np.unique(index).size != index.size:
        return None
    inner = np.ravel_multi_index(tuple(p - a for p, (a, _) in zip(places, box, strict=True)), dims) if dims else index
    steps = _steps(np.asarray(inner), dims)
    return None if steps is None else Resolved(source, None if dims == shape else box, steps)


def _steps(index: np.ndarray, dims: tuple[int, ...]) -> tuple[Step, ...] | None:
    """Steps from arange(dims) to a permutation of it: a strided view, maybe with the blocks of one axis reordered."""
    found = _strided(index, dims)
    if found is not None:
        return found
    for axis, size in enumerate(index.shape):
        for count in (n for n in (2, 3, 4, 6, 8) if size % n == 0):
            starts = np.moveaxis(index, axis, 0)[:: size // count].reshape(count, -1)[:, 0]
            order = np.argsort(starts)
            plain = _strided(apply_step(("blocks", (axis, *order), ()), index), dims)
            if plain is not None:
                return (*plain, ("blocks", (axis, *(int(i) for i in np.argsort(order))), ()))
    return None


def _strided(index: np.ndarray, dims: tuple[int, ...]) -> tuple[Step, ...] | None:
    """Steps from arange(dims) to `index`, if each of its axes goes through the elements with constant strides."""
    factors: list[tuple[int, int]] = []  # size and stride, outermost first
    for axis in range(index.ndim):
        line = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)[:, 0]
        inner: list[tuple[int, int]] = []
        line = line - line[0]
        while line.size > 1:
            stride = int(line[1])
            run = next((n for n in range(line.size, 1, -1) if line.size % n == 0 and (line[:n] == np.arange(n) * stride).all()), 0)
            if run == 0 or stride <= 0:
                return None
            inner.insert(0, (run, stride))
            line = line[::run]
        factors += inner
    order = sorted(range(len(factors)), key=lambda i: -factors[i][1])
    groups: list[list[int]] = []  # factors that stay neighbours, in the order of the source
    for i in order:
        if groups and groups[-1][-1] == i - 1:
            groups[-1].append(i)
        else:
            groups.append([i])
    sizes = tuple(math.prod(factors[i][0] for i in g) for g in groups)
    perm = tuple(sorted(range(len(groups)), key=lambda g: groups[g][0]))
    steps = simplify((("reshape", sizes, dims), ("transpose", perm, ()), ("reshape", index.shape, tuple(sizes[p] for p in perm))), dims)
    if not np.array_equal(Transform(steps).to_keras(np.arange(index.size).reshape(dims)), index):
        return None
    return steps


def simplify(steps: Sequence[Step], shape: tuple[int, ...]) -> tuple[Step, ...]:
    """The same with fewer steps: neighbours of one kind merged, what does nothing left out. shape: it begins with."""
    found: list[tuple[Step, tuple[int, ...]]] = []  # with the shape before it
    for kind, argument, _ in steps:
        if kind == "transpose":
            after = tuple(shape[p] for p in argument)
            moving = [p for p in argument if shape[p] != 1]
            if moving == sorted(moving):
                kind, argument = "reshape", after
        elif kind == "reshape":
            after = argument
        else:
            after = shape
        before = shape
        if found and found[-1][0][0] == kind and kind != "blocks":
            (_, last, _), before = found.pop()
            argument = argument if kind == "reshape" else tuple(last[p] for p in argument)
        idle = (kind == "reshape" and after == before) or (kind != "reshape" and _sorted(argument[kind == "blocks" :]))
        if not idle:
            found.append(((kind, tuple(argument), before if kind == "reshape" else ()), before))
        shape = after
    short = tuple(step for step, _ in found)
    return short if len(short) == len(steps) else simplify(short, found[0][1] if found else shape)


def _sorted(order: Sequence[int]) -> bool:
    return list(order) == sorted(order)


def same_layout(a: Sequence[Step], b: Sequence[Step], shape: tuple[int, ...]) -> bool:
    """Whether two sequences of steps from an array of this shape come to the same."""
    a, b = simplify(a, shape), simplify(b, shape)
    if a == b or math.prod(shape) > LARGEST:
        return a == b
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return np.array_equal(Transform(a).to_keras(numbers), Transform(b).to_keras(numbers))


def concat(parts: Sequence[Moved], axis: int) -> Moved:
    sources = tuple(dict.fromkeys(s for p in parts for s in p.sources))
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    return Moved(sources, tuple(shape), None, tuple(parts), lambda *a: np.concatenate(a, axis))


# ----------------------------------------------------------------------------------------------------------- the graph
def array_of(value: ir.Value) -> np.ndarray:
    """The elements of an initializer or constant."""
    tensor = constant_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def shape_of(value: ir.Value) -> tuple[int, ...]:
    tensor = constant_tensor(value)
    assert tensor is not None
    return tuple(int(d) for d in tensor.shape.numpy())


def constant_tensor(value: ir.Value | None) -> Any:
    """The tensor that a value is: an initializer's, or a Constant node's; else None."""
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        held = node.attributes.get("value") if node.op_type == "Constant" and node.domain == "" else None
        return None if held is None else held.value
    return value.const_value if value.is_initializer() else None


def integers_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The elements of a constant value of integers; None where it is none."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in (ir.DataType.INT64, ir.DataType.INT32) or tensor.size > 1 << 20:
        return None
    return tuple(int(i) for i in tensor.numpy().reshape(-1))


def trace(value: ir.Value) -> Moved | None:
    """How a value comes from initializers; None where anything is computed on the way."""
    if "moved" not in value.meta:
        value.meta["moved"] = _trace(value)
    found: Moved | None = value.meta["moved"]
    return found


def trace_from(value: ir.Value, start: ir.Value, shape: tuple[int, ...]) -> Moved | None:
    """How a value comes from `start`, a computed value, as if that had this shape."""
    passed: list[ir.Value] = []

    def forget(at: ir.Value) -> None:
        node = at.producer()
        if at is not start and node is not None and at not in passed:
            passed.append(at)
            at.meta.pop("moved", None)
            for i, v in enumerate(node.inputs):
                if v is not None and follows(node, i):
                    forget(v)

    forget(value)
    start.meta["moved"] = Moved((start,), shape)
    found = trace(value)
    for at in [start, *passed]:
        at.meta.pop("moved", None)
    return found


def _trace(value: ir.Value) -> Moved | None:
    tensor = constant_tensor(value)
    if tensor is not None:
        return None if tensor.dtype == ir.DataType.STRING else Moved((value,), shape_of(value))
    node = value.producer()
    follow = _FOLLOW.get(node.op_type) if node is not None and node.domain == "" else None
    if node is None or follow is None or not node.inputs or node.inputs[0] is None:
        return None
    try:
        return follow(node, value)
    except (ValueError, IndexError, KeyError, TypeError):  # an odd node: its rule will say what is wrong
        return None


def _first(node: ir.Node) -> Moved:
    found = trace(node.inputs[0])  # type: ignore[arg-type]
    if found is None:
        raise ValueError
    return found


def _argument(node: ir.Node, position: int, attribute: str) -> tuple[int, ...] | None:
    """Integers that are an attribute in old versions and an input in new ones; None where they are left out."""
    if attribute in node.attributes:
        return tuple(node.attributes[attribute].value)
    if position >= len(node.inputs) or node.inputs[position] is None:
        return None
    found = integers_of(node.inputs[position])
    if found is None:
        raise ValueError
    return found


def _required(node: ir.Node, position: int, attribute: str) -> tuple[int, ...]:
    found = _argument(node, position, attribute)
    if found is None:
        raise ValueError
    return found


def _identity(node: ir.Node, value: ir.Value) -> Moved:
    return _first(node)


def _transpose(node: ir.Node, value: ir.Value) -> Moved:
    x = _first(node)
    perm = node.attributes["perm"].value if "perm" in node.attributes else range(len(x.shape))[::-1]
    return x.transpose(*perm)


def _reshape(node: ir.Node, value: ir.Value) -> Moved:
    x, shape = _first(node), _required(node, 1, "shape")
    if "allowzero" not in node.attributes or not node.attributes["allowzero"].value:
        shape = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(shape))
    return x.reshape(*shape)


def _flatten(node: ir.Node, value: ir.Value) -> Moved:
    x = _first(node)
    axis = node.attributes["axis"].value if "axis" in node.attributes else 1
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(node: ir.Node, value: ir.Value) -> Moved:
    x, axes = _first(node), _argument(node, 1, "axes")
    gone = {i for i, d in enumerate(x.shape) if d == 1} if axes is None else {a % len(x.shape) for a in axes}
    return x.reshape(*(d for i, d in enumerate(x.shape) if i not in gone))


def _unsqueeze(node: ir.Node, value: ir.Value) -> Moved:
    x, axes = _first(node), _required(node, 1, "axes")
    rank = len(x.shape) + len(axes)
    new, rest = {a % rank for a in axes}, iter(x.shape)
    return x.reshape(*(1 if i in new else next(rest) for i in range(rank)))


def _slice(node: ir.Node, value: ir.Value) -> Moved:
    x, starts, ends = _first(node), _required(node, 1, "starts"), _required(node, 2, "ends")
    axes = _argument(node, 3, "axes") or tuple(range(len(starts)))
    steps = _argument(node, 4, "steps") or (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -x.shape[axis] else end
        x = x.take(axis % len(x.shape), np.arange(x.shape[axis])[start:last:step])
    return x


def _gather(node: ir.Node, value: ir.Value) -> Moved:
    x, tensor = _first(node), constant_tensor(node.inputs[1])
    if tensor is None:
        raise ValueError
    indices = tensor.numpy()
    axis = (node.attributes["axis"].value if "axis" in node.attributes else 0) % len(x.shape)
    if indices.ndim > 1 or len(set(indices.reshape(-1).tolist())) != indices.size:
        raise ValueError  # the same element twice: that is an embedding
    return x.take(axis, indices)


def _split(node: ir.Node, value: ir.Value) -> Moved:
    x, sizes = _first(node), _argument(node, 1, "split")
    axis = (node.attributes["axis"].value if "axis" in node.attributes else 0) % len(x.shape)
    each = -(-x.shape[axis] // len(node.outputs))
    cuts = np.cumsum(sizes or (each,) * len(node.outputs))
    end = min(int(cuts[value.index()]), x.shape[axis])  # type: ignore[index]
    start = int(cuts[value.index() - 1]) if value.index() else 0  # type: ignore[operator]
    return x.take(axis, np.arange(start, end))


def _concat(node: ir.Node, value: ir.Value) -> Moved:
    parts = [found for v in node.inputs if v is not None and (found := trace(v)) is not None]
    if len(parts) < len(node.inputs):
        raise ValueError
    return concat(parts, node.attributes["axis"].value % len(parts[0].shape))


_FOLLOW: dict[str, Callable[[ir.Node, ir.Value], Moved]] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Concat": _concat,
}


def follows(node: ir.Node, i: int) -> bool:
    """Whether input `i` of a node is what the node moves."""
    return node.domain == "" and node.op_type in _FOLLOW and (i == 0 or node.op_type == "Concat")
