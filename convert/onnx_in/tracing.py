"""How a value of the graph comes from initializers by ops that move elements and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Container

import numpy as np
import onnx_ir as ir

from .moved import Moved, concat, constant_tensor, shape_of

__all__ = ["follows", "integers_of", "is_zero", "trace", "trace_from"]


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
    found = trace(node.inputs[0])
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
    end = min(int(cuts[value.index()]), x.shape[axis])
    start = int(cuts[value.index() - 1]) if value.index() else 0
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


_KEEP_ZERO = (*(op for op in _FOLLOW if op != "Concat"), "Expand", "Cast", "CastLike", "Tile")


def is_zero(value: ir.Value, held: Container[ir.Value] = ()) -> bool:
    """Whether a value is known to be all zeros, of whatever shape, and stays so. held: initializers that may change."""
    tensor, node = constant_tensor(value), value.producer()
    if tensor is not None:
        return bool(value not in held and tensor.size < 1 << 24 and not np.any(tensor.numpy()))
    if node is None or node.domain:
        return False
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get("value")
        return filled is None or not np.any(filled.value.numpy())
    return node.op_type in _KEEP_ZERO and node.inputs[0] is not None and is_zero(node.inputs[0], held)


def follows(node: ir.Node, i: int) -> bool:
    """Whether input `i` of a node is what the node moves."""
    return node.domain == "" and node.op_type in _FOLLOW and (i == 0 or node.op_type == "Concat")
