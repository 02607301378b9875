"""Values that are initializers whose elements were moved and never computed: what a Transpose, Reshape, Slice, Split or
Concat of a kernel is (tracing.py), as steps on the kernel (`Moved.resolve`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from isomorph.convert.weights import Step, Transform, apply_step

__all__ = ["Box", "Moved", "Resolved", "array_of", "concat", "constant_tensor", "same_layout", "shape_of", "simplify"]

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
            run = next(
                (
                    n
                    for n in range(line.size, 1, -1)
                    if line.size % n == 0 and (line[:n] == np.arange(n) * stride).all()
                ),
                0,
            )
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
    steps = simplify(
        (("reshape", sizes, dims), ("transpose", perm, ()), ("reshape", index.shape, tuple(sizes[p] for p in perm))),
        dims,
    )
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


def array_of(value: ir.Value) -> np.ndarray:
    """The elements of an initializer or constant."""
    tensor = constant_tensor(value)
    assert tensor is not None
    return np.asarray(tensor.numpy())


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
