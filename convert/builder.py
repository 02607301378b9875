"""What a rule talks to. One rule, two regimes:

- `Concrete`: operands are backend tensors, dims are ints (or scalar tensors while TensorFlow traces); the rule
computes.
- `Functional` (in `emit.py`): operands are KerasTensors; the rule builds nodes of a Functional model. A dim whose value
  is not known yet is an `Unknown`: handing it on is fine, computing with it raises `Dynamic`, and then the op becomes
  a `GraphLayer` that runs the same rule at call time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from keras import ops

from .ir import CALLS, Node, Sym, TensorType
from .promote import common_dtype

Tensor = Any
Size = Any  # int | Unknown | scalar tensor


class Dynamic(Exception):
    """The rule needs a value (a size, a random draw, the mode) that a Functional graph cannot hold."""


class Unknown:
    """A size that is only known at call time. It can be passed to the builder's methods; arithmetic raises Dynamic."""

    def __init__(self, sym: Sym | None) -> None:
        self.sym = sym

    def _raise(self, *_: Any) -> NoReturn:
        raise Dynamic(f"size {self.sym or '?'} is only known at call time")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = (
        _raise
    )
    __truediv__ = __rtruediv__ = __neg__ = __int__ = __index__ = __float__ = __bool__ = __lt__ = __le__ = __gt__ = (
        __ge__
    ) = _raise
    __pow__ = __rpow__ = __abs__ = __round__ = _raise

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Unknown) and other.sym is not None and other.sym == self.sym:
            return True
        return bool(self._raise())

    def __hash__(self) -> int:
        return hash(self.sym)


def is_known(size: Size) -> bool:
    """Whether the size is a plain int."""
    return isinstance(size, (int, np.integer)) and not isinstance(size, bool)


def same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are certainly equal (False where it is unknown)."""
    if isinstance(a, Unknown) or isinstance(b, Unknown):
        return isinstance(a, Unknown) and isinstance(b, Unknown) and a.sym is not None and a.sym == b.sym
    return bool(is_known(a) and is_known(b) and a == b)


def _round(how: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A size from a real number."""
    return lambda x: ops.cast(how(ops.cast(x, "float64")), "int32")


def _choose(how: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`how` of two scalars, one of which may be a number; both become what the other is, real numbers first."""

    def chosen(*xs: Any) -> Tensor:
        dtype = "float64" if any("float" in str(getattr(x, "dtype", type(x))) for x in xs) else "int32"
        return how(*(ops.cast(x, dtype) for x in xs))

    return chosen


_OF_TENSORS: dict[str, Callable[..., Any]] = {
    "Max": lambda *xs: functools.reduce(_choose(ops.maximum), xs),
    "Min": lambda *xs: functools.reduce(_choose(ops.minimum), xs),
    "abs": ops.abs,
    "int": _round(ops.trunc),
    "float": lambda x: ops.cast(x, "float64"),
    "ceil": _round(ops.ceil),
    "floor": _round(ops.floor),
    "sqrt": lambda x: ops.sqrt(ops.cast(x, "float64")),
    "where": lambda c, a, b: _choose(lambda a, b: ops.where(c, a, b))(a, b),
}


def _either(name: str, of_tensors: Callable[..., Any]) -> Callable[..., Any]:
    """The function of numbers, or that of tensors where an argument is one."""
    return lambda *xs: (of_tensors if any(hasattr(x, "dtype") for x in xs) else CALLS[name])(*xs)


_OF_SIZES = {name: _either(name, function) for name, function in _OF_TENSORS.items()}


def evaluated(dim: Sym, env: Mapping[str, Any]) -> Size:
    """The value of an expression of sizes, some of which are scalar tensors while TensorFlow traces."""
    return dim.evaluate(env, _OF_SIZES)


class Builder:
    """The services a rule may use. `node` is the op being lowered; its operands' types are known by `type(x)`.

    Axis order: `axis` and `axes` translate torch axes (negative ones too) into positions of the operands as they are
    handed to the rule; in TORCH, SPATIAL and interpreted rules that is the identity on normalised axes.
    """

    functional = False

    def __init__(self, node: Node, perm: tuple[int, ...] = ()) -> None:
        self.node = node
        self.perm = perm
        self.removed: tuple[int, ...] = ()
        self._types: dict[int, tuple[TensorType, tuple[int, ...]]] = {}

    # ------------------------------------------------------------------------------------------------- types and sizes
    def note(self, tensor: Tensor, type_: TensorType, perm: tuple[int, ...]) -> None:
        """Remember the torch-side type and the axis order of an operand (the driver calls this)."""
        self._types[id(tensor)] = (type_, perm)

    def type(self, x: Tensor) -> TensorType:
        """The torch-side type of an operand, torch axis order."""
        return self._types[id(x)][0]

    @property
    def out(self) -> TensorType:
        """The torch-side type of the first result."""
        return self.node.outputs[0].type

    def dtype(self, x: Tensor) -> str:
        """The dtype, by torch's name."""
        if id(x) in self._types:
            return self._types[id(x)][0].dtype
        from keras.src.backend import standardize_dtype

        return str(standardize_dtype(x.dtype))

    def rank(self, x: Tensor) -> int:
        return len(x.shape)

    def shape(self, x: Tensor) -> tuple[Size, ...]:
        """The sizes of `x` as it is handed to the rule: ints where known."""
        raise NotImplementedError

    def size(self, dim: Any) -> Size:
        """A dim or size argument (int, Sym, Unknown, scalar tensor) as a size."""
        raise NotImplementedError

    def axis(self, dim: int, rank: int | None = None) -> int:
        """The position, in the operands as handed over, of torch axis `dim`."""
        rank = (len(self.perm) or self.node.inputs[0].type.rank) if rank is None else rank
        dim = dim + rank if dim < 0 else dim
        return self.perm.index(dim) if self.perm and len(self.perm) == rank else dim

    def axes(self, dims: Sequence[int] | int | None, rank: int | None = None) -> tuple[int, ...]:
        """`axis` for several; None or empty means all axes."""
        rank = (len(self.perm) or self.node.inputs[0].type.rank) if rank is None else rank
        if dims is None or (isinstance(dims, (list, tuple)) and not dims):
            dims = list(range(rank))
        dims = [dims] if isinstance(dims, int) else list(dims)
        return tuple(self.axis(d, rank) for d in dims)

    def reduce(self, dims: Sequence[int] | int | None, keepdim: bool) -> tuple[int, ...]:
        """`axes` for a reduction in a MAPPED rule; tells the driver which axes the result lacks."""
        positions = self.axes(dims)
        if not keepdim:
            self.removed = tuple(sorted(self.perm[p] if self.perm else p for p in positions))
        return positions

    # -------------------------------------------------------------------------------------------------------- building
    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """`x` with another dtype (torch's name); float to int truncates."""
        return ops.cast(x, dtype) if str(getattr(x, "dtype", "")) != dtype else x

    def promoted(self, *xs: Any) -> list[Any]:
        """The tensors among `xs` cast to their common dtype by torch's promotion; numbers stay as they are."""
        types = [self._types[id(x)][0] for x in xs if id(x) in self._types]
        numbers = [x for x in xs if isinstance(x, (bool, int, float, complex))]
        dtype = common_dtype(types, numbers)
        return [self.cast(x, dtype) if id(x) in self._types else x for x in xs]

    def reshape(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        """`x` in another shape; at most one entry may be -1."""
        raise NotImplementedError

    def broadcast_to(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        """`x` broadcast to `shape` (entries int or sizes)."""
        raise NotImplementedError

    def full(self, shape: Sequence[Size], value: Any, dtype: str) -> Tensor:
        raise NotImplementedError

    def arange(self, start: Size, end: Size, step: Size, dtype: str) -> Tensor:
        raise NotImplementedError

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A table the rule computed with numpy, as a tensor (a non-trainable weight in a Functional model)."""
        raise NotImplementedError

    def draw(self, make: Callable[[Any], Tensor]) -> Tensor:
        """One random draw: `make(seed)` returns the tensor; a replay hands out a recorded array instead."""
        raise NotImplementedError

    @property
    def training(self) -> bool:
        """The mode, where it is known; a Functional graph raises Dynamic."""
        raise NotImplementedError


class Concrete(Builder):
    """The computing regime. `env` gives each dim name its value, `training` the mode, `draws` serves random values."""

    def __init__(
        self,
        node: Node,
        env: Mapping[str, Any],
        training: bool = False,
        draws: Callable[[Callable[[Any], Tensor]], Tensor] | None = None,
    ) -> None:
        super().__init__(node)
        self.env = env
        self._training = training
        self._draws = draws

    @property
    def training(self) -> bool:
        return self._training

    def shape(self, x: Tensor) -> tuple[Size, ...]:
        return tuple(ops.shape(x))

    def size(self, dim: Any) -> Size:
        return evaluated(dim, self.env) if isinstance(dim, Sym) else dim

    def reshape(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        return ops.reshape(x, tuple(self.size(d) for d in shape))

    def broadcast_to(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        return ops.broadcast_to(x, tuple(self.size(d) for d in shape))

    def full(self, shape: Sequence[Size], value: Any, dtype: str) -> Tensor:
        return ops.full(tuple(self.size(d) for d in shape), value, dtype=dtype)

    def arange(self, start: Size, end: Size, step: Size, dtype: str) -> Tensor:
        return ops.cast(ops.arange(self.size(start), self.size(end), self.size(step)), dtype)

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Tensor:
        return ops.convert_to_tensor(array, dtype=dtype)

    def draw(self, make: Callable[[Any], Tensor]) -> Tensor:
        return make(None) if self._draws is None else self._draws(make)
