"""The building regime of a rule: KerasTensors in, KerasTensors out, real layers where a layer form exists."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from .builder import Builder, Dynamic, Size, Tensor, Unknown, is_known, same_size
from .ir import Node, Sym
from .rules.operands import plus
from .weights import ParamRef

if TYPE_CHECKING:
    from .scope import Scope


class Functional(Builder):
    """Builds into one scope of the model. Sizes that are not known raise `Dynamic` when a rule computes with them."""

    functional = True

    def __init__(self, node: Node, perm: tuple[int, ...], scope: Scope) -> None:
        super().__init__(node, perm)
        self.scope = scope
        self.batchnorm: str = scope.emitter.batchnorm

    @property
    def training(self) -> bool:
        raise Dynamic("the mode is only known at call time")

    # ---------------------------------------------------------------------------------------------------------- sizes
    def size(self, dim: Any) -> Size:
        return Unknown(dim) if isinstance(dim, Sym) else dim

    def shape(self, x: Tensor) -> tuple[Size, ...]:
        known = self._types.get(id(x))
        if known is not None:
            type_, perm = known
            return tuple(self.size(type_.shape[a]) for a in perm)
        return tuple(Unknown(None) if d is None else int(d) for d in x.shape)

    def reshape(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        sizes = [self.size(d) for d in shape]
        current = self.shape(x)
        if len(sizes) == len(current) and all(same_size(a, b) for a, b in zip(sizes, current, strict=True)):
            return x
        unknown = [i for i, d in enumerate(sizes) if not is_known(d) or d == -1]
        if not unknown:
            return ops.reshape(x, tuple(int(d) for d in sizes))
        if len(unknown) == 1:
            return ops.reshape(x, tuple(-1 if i in unknown else int(d) for i, d in enumerate(sizes)))
        rest = [i for i in unknown if i]
        if len(rest) == 1 and current and same_size(sizes[0], current[0]):
            target = tuple(-1 if i in rest else int(d) for i, d in enumerate(sizes) if i)
            return keras.layers.Reshape(target, dtype=self._policy(x), name=self.scope.unique(None, "reshape"))(x)
        kept = [d for d in sizes if not (is_known(d) and d == 1)]
        old = [(i, d) for i, d in enumerate(current) if not (is_known(d) and d == 1)]
        if len(kept) == len(old) and all(same_size(d, e) for d, (_, e) in zip(kept, old, strict=True)):
            gone = tuple(i for i in range(len(current)) if i not in {i for i, _ in old})
            x = ops.squeeze(x, gone) if gone else x
            for i, d in enumerate(sizes):
                x = ops.expand_dims(x, i) if is_known(d) and d == 1 else x
            return x
        raise Dynamic("a reshape with several unknown sizes")

    def broadcast_to(self, x: Tensor, shape: Sequence[Size]) -> Tensor:
        sizes = [self.size(d) for d in shape]
        known = self.shape(x)
        for _ in range(len(sizes) - len(x.shape)):
            x = ops.expand_dims(x, 0)
        current = [1] * (len(sizes) - len(known)) + list(known)
        repeats, free = [], [1] * len(sizes)
        for i, (have, want) in enumerate(zip(current, sizes, strict=True)):
            if (is_known(want) and want == -1) or same_size(have, want):
                repeats.append(1)
            elif is_known(have) and have == 1:
                repeats.append(int(want) if is_known(want) else 1)
                free[i] = 1 if is_known(want) else want
            else:
                raise Dynamic("a broadcast to an unknown size")
        if any(r != 1 for r in repeats):
            x = ops.tile(x, repeats)
        if all(is_known(d) for d in free):
            return x
        zeros = self._zeros(free, keras.backend.standardize_dtype(x.dtype))
        return ops.logical_or(x, zeros) if keras.backend.standardize_dtype(x.dtype) == "bool" else plus(x, zeros)

    def full(self, shape: Sequence[Size], value: Any, dtype: str) -> Tensor:
        sizes = [self.size(d) for d in shape]
        zeros = self._zeros([1 if is_known(d) else d for d in sizes], dtype)
        tiles = [int(d) if is_known(d) else 1 for d in sizes]
        zeros = ops.tile(zeros, tiles) if any(t != 1 for t in tiles) else zeros
        return ops.full_like(zeros, value)

    def _zeros(self, sizes: Sequence[Size], dtype: str) -> Tensor:
        """Zeros whose free sizes are those of tensors at hand: a Functional graph has no other way to say "batch"."""
        total = None
        for i, size in enumerate(sizes):
            if not is_known(size):
                strip = self.scope.strip(size.sym)
                if strip is None:
                    raise Dynamic(f"no tensor here has the size {size.sym}")
                one = ops.zeros_like(ops.reshape(strip, [-1 if j == i else 1 for j in range(len(sizes))]), dtype=dtype)
                total = one if total is None else ops.logical_or(total, one) if dtype == "bool" else plus(total, one)
        if total is None:
            raise Dynamic("a tensor made from nothing")
        return total

    def arange(self, start: Size, end: Size, step: Size, dtype: str) -> Tensor:
        start, end, step = self.size(start), self.size(end), self.size(step)
        if is_known(start) and is_known(end) and is_known(step):
            return self.constant(np.arange(start, end, step), dtype)
        if not is_known(start) or start != 0 or not is_known(step) or step != 1:
            raise Dynamic("a count between unknown sizes")
        ones = ops.ones_like(self._zeros([end], "int32"))
        return self.cast(ops.subtract(ops.cumsum(ones, axis=0), 1), dtype)

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Tensor:
        array = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype)
        return self.scope.table(array)

    def draw(self, make: Callable[[Any], Tensor]) -> Tensor:
        raise Dynamic("a random draw")

    # --------------------------------------------------------------------------------------------------------- layers
    def _policy(self, x: Tensor) -> str | None:
        dtype = str(getattr(x, "dtype", ""))
        return dtype if dtype.startswith(("float", "bfloat")) else None

    def sibling(self, ref: ParamRef | None, attribute: str) -> ParamRef | None:
        """The parameter or buffer of the same torch module under another attribute name, if it exists."""
        return (
            None
            if ref is None
            else self.scope.emitter.reference(f"{ref.name.rpartition('.')[0]}.{attribute}".lstrip("."))
        )

    def trains(self, *refs: ParamRef) -> bool:
        """Whether any of these is trainable."""
        return any(self.scope.emitter.trainable(ref.name) for ref in refs)

    def layer(self, cls: Any, x: Any, *, weights: dict[str, Any], name: str | None = None, **config: Any) -> Tensor:
        """Call a layer of class `cls` on `x` (a tensor, or a list of positional inputs), reusing it where the module
        is called again.

        `weights` maps the layer's variable attributes to `ParamRef`s (None: the layer has no such variable; lists map
        to
        attribute.0, attribute.1 ...). The layer's variables are filled from torch's tensors and entered in the weight
        map.
        """
        bound = {k: ref for k, ref in _flat(weights).items() if ref is not None}
        inputs = x if isinstance(x, (list, tuple)) else [x]
        dtype = (
            config.pop("dtype", None)
            or next((r.type.dtype for r in bound.values() if r.type.is_floating), None)
            or self._policy(inputs[0])
        )
        key = json.dumps(
            [cls.__name__, {k: repr(v) for k, v in config.items()}, {k: r.name for k, r in bound.items()}],
            sort_keys=True,
        )
        layer = self.scope.layers.get(key) if bound else None
        if "seed" in inspect.signature(cls.__init__).parameters:
            config.setdefault("seed", self.scope.emitter.next_seed())
        if layer is None:
            layer = cls(name=self.scope.unique(self.node, name or cls.__name__), dtype=dtype, **config)
            y = layer(*inputs)
            for attribute, ref in bound.items():
                self.scope.emitter.bind(ref, layer, attribute)
            if layer.trainable_variables and not any(self.scope.emitter.trainable(r.name) for r in bound.values()):
                layer.trainable = False
            self.scope.layers[key] = layer
        else:
            y = layer(*inputs)
        self.scope.made.append(layer)
        return y


def _flat(weights: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in weights.items():
        if isinstance(v, (list, tuple)):
            flat.update({f"{k}.{i}": w for i, w in enumerate(v)})
        else:
            flat[k] = v
    return flat
