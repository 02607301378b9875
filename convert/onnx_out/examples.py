"""Examples to run a model on: arrays for its inputs, at two batch sizes, and what Keras answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isomorph.convert.errors import UsageError, one_line
from isomorph.convert.ir import Sym

from .trace import Input, Traced, answers

__all__ = ["Example", "draw", "output_dims", "symbols"]

SIZES = ((32, 64, 96, 128), (32,), (8,), (64,), (128,), (224,), (2,), (1,))  # tried in turn for dims that are free
BATCHES = (2, 3)
Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Example:
    """One run: inputs and Keras' outputs, in order. sizes: what each free dim was."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    sizes: Mapping[str, int]


def symbols(ports: tuple[Input, ...], named: list[Dims] | None = None) -> list[Dims]:
    """The inputs' dims with a name for each free one: the batch's is "batch". named: dims that have names already (a
    model from torch), taken where they are free here too."""
    found: list[Dims] = []
    for i, port in enumerate(ports):
        own = named[i] if named is not None else (None,) * len(port.dims)
        free = ["batch" if axis == 0 else f"{port.name}_{axis}" for axis in range(len(port.dims))]
        found.append(
            tuple(
                d if d is not None else n if isinstance(n, str) else f
                for d, n, f in zip(port.dims, own, free, strict=True)
            )
        )
    return found


def draw(
    model: Any,
    traced: Traced,
    dims: list[Dims],
    given: Any = None,
    bounds: Mapping[str, tuple[int, int | None]] | None = None,
) -> list[Example]:
    """Two examples of different batch size (one, where the batch is fixed), or `given` and one of it.

    given: arguments as `to_onnx` takes them, arrays. bounds: smallest and largest size by free dim. UsageError: Keras
    computes none of the sizes that were tried.
    """
    if given is not None:
        arrays = _given(model, traced, given)
        return [Example(arrays, answers(model, traced.arguments, arrays), {})]
    refused: Exception | None = None
    free = [name for name in _free(dims) if name != "batch"]
    for low, choice in [(low, choice) for low in (0, 1) for choice in (SIZES if free else SIZES[:1])]:
        try:
            found = []
            for batch in BATCHES:
                sizes = _sizes(dims, choice, batch, bounds or {})
                arrays = [_array(p, d, sizes, n, low) for n, (p, d) in enumerate(zip(traced.ports, dims, strict=True))]
                found.append(Example(arrays, answers(model, traced.arguments, arrays), sizes))
                if not sizes:
                    break
        except Exception as error:  # Keras raises nearly every type where a size does not fit
            refused = refused or error
            continue
        return found
    assert refused is not None
    raise UsageError(
        f"{model.name} cannot be run on an example of its own inputs ({one_line(refused, 200)}); give example="
    ) from refused


def _given(model: Any, traced: Traced, given: Any) -> list[np.ndarray]:
    import keras

    arguments = given if isinstance(given, tuple) else (given,)
    flat = [np.asarray(keras.ops.convert_to_numpy(a)) for a in keras.tree.flatten(arguments)]
    if len(flat) != len(traced.ports):
        raise UsageError(f"example has {len(flat)} arrays, {model.name} takes {len(traced.ports)}")
    return [a.astype(p.dtype) for a, p in zip(flat, traced.ports, strict=True)]


def _free(dims: list[Dims]) -> list[str]:
    """The names in the dims, also those inside expressions such as "2*s"."""
    found = [name for d in dims for text in d if isinstance(text, str) for name in re.findall(r"[A-Za-z_][\w.]*", text)]
    return list(dict.fromkeys(found))


def _sizes(
    dims: list[Dims], choice: tuple[int, ...], batch: int, bounds: Mapping[str, tuple[int, int | None]]
) -> dict[str, int]:
    names = _free(dims)
    firsts = {d[0] for d in dims if d and isinstance(d[0], str)}
    found, others = {}, 0
    for name in names:
        if name in firsts and len(firsts) == 1:
            size = batch
        else:
            size, others = choice[others % len(choice)], others + 1
        low, high = bounds.get(name, (1, None))
        found[name] = max(size, low) if high is None else min(max(size, low), high)
    return found


def _array(port: Input, dims: Dims, sizes: Mapping[str, int], seed: int, low: int) -> np.ndarray:
    """Normal values; integers from `low` to 1, which every embedding has: 0 too, unless something divides by it."""
    shape = tuple(d if isinstance(d, int) else Sym(d).evaluate(sizes) for d in dims)
    rng = np.random.default_rng(seed)
    if port.dtype == "bool":
        return rng.random(shape) < 0.5
    if port.dtype == "string":
        return np.full(shape, "a", object)
    if port.dtype.startswith(("int", "uint")):
        return rng.integers(low, 2, shape).astype(port.dtype)
    if port.dtype == "bfloat16":
        import ml_dtypes

        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    return rng.standard_normal(shape).astype(port.dtype)


def output_dims(traced: Traced, examples: list[Example]) -> list[Dims]:
    """The outputs' dims: the name of a free input dim where it has its size in every example, and no other does."""
    found: list[Dims] = []
    for i, port in enumerate(traced.outs):
        dims: list[int | str] = []
        for axis, dim in enumerate(port.dims):
            if dim is not None:
                dims.append(dim)
                continue
            sizes = [e.outputs[i].shape[axis] for e in examples]
            same = [n for n in examples[0].sizes if all(e.sizes[n] == s for e, s in zip(examples, sizes, strict=True))]
            dims.append(same[0] if len(same) == 1 and len(examples) > 1 else f"{port.name}_{axis}")
        found.append(tuple(dims))
    return found
