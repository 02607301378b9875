"""Drawing inputs from a contract. numpy only.

The unit that is drawn is a `Case` (distribution, seed, sizes), never elements: it is small, replayable, and shrinks
towards simpler distributions.

    normal  standard normal: what a trained model sees
    mixed   scales, zeros, ties and signs in one tensor: the best single distribution
    grid    multiples of 0.5: ties, zeros and bounds, where subgradients differ
    large   tens to hundreds: saturation, clipped exponentials
    edge    rows of zeros, of constants, of 78..88, 1e-15 and 1e4: epsilons in the wrong place
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["DISTRIBUTIONS", "Contract", "InputSpec", "evaluate_dim", "materialise", "plan"]

Dim = int | str
DISTRIBUTIONS = ("normal", "mixed", "grid", "large", "edge")
SHARES = {"normal": 4, "mixed": 8, "grid": 4, "large": 4, "edge": 4}
ORDER = ("normal", "mixed", "grid", "mixed", "large", "edge")


@dataclass(frozen=True)
class InputSpec:
    """What one input may be.

    dims: int, or an expression over dim names. dtype: as torch names it. low, high: inclusive bounds of an integer
    input. example: an array it accepted, or None. lead: the value that a bool or 0/1 input has at the start of its last
    axis, where the example always has it there, as a mask does: so no row is wholly masked. share: how often a bool is
    true. kept: an input that is always the example.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    low: int = 0
    high: int = 1
    example: Array | None = None
    lead: int | None = None
    share: float = 0.5
    kept: bool = False


@dataclass(frozen=True)
class Contract:
    """The inputs in flat order, the sizes of the example, and bounds (low, high or None) of the symbolic dims."""

    inputs: tuple[InputSpec, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    bounds: Mapping[str, tuple[int, int | None]] | None = None

    def shape(self, spec: InputSpec, case: Case) -> tuple[int, ...]:
        """The shape of an input in a case. KeyError names a dim the case does not size."""
        sizes = dict(case.sizes)
        return tuple(dim if isinstance(dim, int) else evaluate_dim(dim, sizes) for dim in spec.dims)


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip


def evaluate_dim(text: str, sizes: Mapping[str, int]) -> int:
    """The value of a dim expression such as "2*s". KeyError names a missing dim; ValueError is any other construct."""

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return sizes[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        raise ValueError(f"not a dim expression: {text!r}")

    return walk(ast.parse(text, mode="eval").body)


def dim_names(specs: Iterable[InputSpec]) -> tuple[str, ...]:
    """The dim names of a contract, in order of appearance."""
    names: dict[str, None] = {}
    for spec in specs:
        for dim in spec.dims:
            if isinstance(dim, str):
                names.update(
                    dict.fromkeys(n.id for n in ast.walk(ast.parse(dim, mode="eval")) if isinstance(n, ast.Name))
                )
    return tuple(names)


def solve_sizes(specs: Sequence[InputSpec]) -> tuple[tuple[str, int], ...]:
    """The size of each dim name in the examples; 2, 3, ... for names that no example fixes.

    An expression such as "2*s" is solved by trying sizes up to the axis length.
    """
    found: dict[str, int] = {}
    pairs = [
        (dim, spec.example.shape[axis])
        for spec in specs
        for axis, dim in enumerate(spec.dims)
        if isinstance(dim, str) and spec.example is not None
    ]
    for dim, length in sorted(pairs, key=lambda pair: not pair[0].isidentifier()):  # bare names first
        unknown = [name for name in dim_names([InputSpec("", "", (dim,))]) if name not in found]
        if len(unknown) == 1:
            for size in range(length + 1):
                if evaluate_dim(dim, {**found, unknown[0]: size}) == length:
                    found[unknown[0]] = size
                    break
    for index, name in enumerate(dim_names(specs)):
        found.setdefault(name, 2 + index)
    return tuple(found.items())


def plan(contract: Contract, examples: int, seed: int, mode: str, shapes: int = 3) -> tuple[Case, ...]:
    """The cases of one mode. At most `shapes` different sizes, the example's first, so that little is traced anew.

    With 24 examples: 4 normal, 8 mixed, 4 grid, 4 large, 4 edge; with fewer, the same proportions, the most telling
    first.
    """
    rng = np.random.default_rng([seed, {"eval": 1, "train": 2}.get(mode, 3)])
    order: list[str] = []
    counts = {name: max(1, round(share * examples / 24)) for name, share in SHARES.items()}
    while len(order) < examples:
        order += [name for name in ORDER if order.count(name) < counts[name]] or list(ORDER)
    resize = np.random.default_rng([seed, 99])  # the same sizes in both modes
    variants = [contract.sizes, *(_resized(contract, resize, index) for index in range(1, shapes))]
    variants = list(dict.fromkeys(variants))
    return tuple(
        Case(name, int(rng.integers(2**31)), variants[index % len(variants)])
        for index, name in enumerate(order[:examples])
    )


def _resized(contract: Contract, rng: np.random.Generator, index: int) -> tuple[tuple[str, int], ...]:
    """Other sizes near the example's: a little more, and one as small as may be."""
    more = int(rng.integers(1, 3))  # the same for all, so that dims which must be equal stay equal
    sizes = []
    for name, size in contract.sizes:
        low, high = (contract.bounds or {}).get(name, (1, None))
        wanted = size + more if index % 2 else max(1, size // 2)
        sizes.append((name, min(max(wanted, low), size * 4 if high is None else high)))
    return tuple(sizes)


def materialise(contract: Contract, case: Case) -> tuple[Array, ...]:
    """The input arrays of a case, in torch axis order. Floats are float32 or float64, rounded to the input's dtype
    (bfloat16 values are carried in float32)."""
    arrays = []
    for index, spec in enumerate(contract.inputs):
        rng = np.random.default_rng([case.seed, index])
        shape = contract.shape(spec, case)
        fits = spec.example is not None and spec.example.shape == shape
        integer = not spec.dtype.startswith(("float", "bfloat", "complex"))
        if fits and (spec.kept or (integer and case.source == "example")):
            arrays.append(np.array(spec.example))
        elif integer:
            arrays.append(_integers(rng, spec, shape))
        elif spec.dtype.startswith("complex"):
            pair = [draw(case.distribution, rng, shape) for _ in range(2)]
            arrays.append((pair[0] + 1j * pair[1]).astype(spec.dtype))
        else:
            arrays.append(round_to(draw(case.distribution, rng, shape), spec.dtype))
    return tuple(arrays)


def round_to(array: Array, dtype: str) -> Array:
    """Float values rounded to `dtype` (saturating), carried in float32, or in float64 if dtype is float64."""
    if dtype == "float64":
        return array.astype(np.float64)
    if dtype == "float16":
        return np.clip(array, -65504, 65504).astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = array.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).astype(np.uint32).view(np.float32)
    return array.astype(np.float32)


def draw(distribution: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A float64 array. ValueError for an unknown distribution."""
    if distribution == "normal":
        return np.asarray(rng.standard_normal(shape))
    if distribution == "grid":
        return rng.integers(-6, 7, shape) * 0.5
    if distribution == "large":
        return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(1, 2.3))
    if distribution == "mixed":
        return _mixed(rng, shape)
    if distribution == "edge":
        return _edge(rng, shape)
    raise ValueError(f"unknown distribution {distribution!r}; known: {', '.join(DISTRIBUTIONS)}")


def _mixed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    base = np.asarray(rng.standard_normal(shape))
    scaled = base * 10.0 ** rng.uniform(-3, 1.3, shape)
    grid = rng.integers(-6, 7, shape) * 0.5
    values = np.select([(kind := rng.random(shape)) < 0.45, kind < 0.7, kind < 0.85], [base, scaled, grid], 0.0)
    if values.size > 1:  # ties: some elements repeat others
        flat = values.reshape(-1)
        count = max(1, flat.size // 12)
        flat[rng.integers(0, flat.size, count)] = flat[rng.integers(0, flat.size, count)]
    return np.asarray(values)


def _edge(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values = np.asarray(rng.standard_normal(shape))
    if not shape or not values.size:
        return values
    rows = values.reshape(-1, shape[-1])
    for row in rows:
        kind = rng.integers(0, 8)
        if kind == 0:
            row[:] = 0.0
        elif kind == 1:
            row[:] = rng.standard_normal()
        elif kind == 2:
            row[:] = rng.uniform(78, 88, row.shape) * rng.choice([-1.0, 1.0], row.shape)
        elif kind == 3:
            row *= 1e-15
        elif kind == 4:
            row *= 1e4
    return values


def _integers(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    if spec.dtype == "bool":
        values: Any = rng.random(shape) < spec.share
    else:
        values = rng.integers(spec.low, spec.high + 1, shape)
    values = np.asarray(values, spec.dtype)
    if spec.lead is not None and shape and shape[-1]:
        values[..., 0] = spec.lead
    return np.asarray(values)


def spec_of(name: str, dtype: str, dims: Sequence[Dim], example: Array | None, bound: int | None) -> InputSpec:
    """The spec of an input from what is known of it.

    bound: the number of rows of the table it indexes, if it does. Other integers stay within the example's range.
    """
    spec = InputSpec(name, dtype, tuple(dims), example=example)
    if example is None or not example.size:
        return replace(spec, high=max(0, (bound or 2) - 1))
    if dtype == "bool":
        return replace(spec, lead=_lead(example), share=min(max(float(example.mean()), 0.1), 0.9))
    if dtype.startswith(("float", "bfloat", "complex")):
        return replace(spec, kept=not np.isfinite(example).all())  # an additive mask: its pattern has a meaning
    low, high = (0, bound - 1) if bound else (int(example.min()), int(example.max()))
    if not bound and low >= 0 and high == 1 and example.ndim > 1 and _lead(example) == 1:  # 1 for real, 0 for padding
        return replace(spec, low=0, high=1, lead=1)
    return replace(spec, low=low, high=high)


def _lead(example: Array) -> int | None:
    """The value at the start of every row, if it is one and the same."""
    if not example.ndim or example.shape[-1] < 2:
        return None
    first = np.unique(example[..., 0])
    return int(first[0]) if first.size == 1 else None
