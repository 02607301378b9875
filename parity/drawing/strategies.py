"""Drawing inputs from a contract. numpy only.

The unit that is drawn is a `Case` (distribution, seed, sizes), never elements: it is small, replayable, and shrinks
towards simpler distributions (`distributions`). The share of each stratum of them, of 24 examples, was measured:

    4 normal   8 mixed   4 grid   4 large   4 edge

Half of a stratum is the distribution it is named for; the others of `STRATA` share the rest.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isomorph.parity.drawing.distributions import DISTRIBUTIONS, draw, into_range
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = [
    "DISTRIBUTIONS",
    "STRATA",
    "Contract",
    "InputSpec",
    "counts",
    "evaluate_dim",
    "limits",
    "materialise",
    "order",
    "plan",
    "round_to",
    "solve_sizes",
    "spec_of",
    "variants",
]

Dim = int | str
Sizes = tuple[tuple[str, int], ...]
STRATA: Mapping[str, tuple[str, ...]] = {
    "normal": ("normal", "equal_channels", "sparse"),
    "mixed": ("mixed", "wide", "ties", "sparse"),
    "grid": ("grid", "integers", "ties", "onehot"),
    "large": ("large", "wide"),
    "edge": ("edge", "tiny", "constant", "zeros", "equal_channels"),
    "special": ("special",),
}
SHARES = {"normal": 4, "mixed": 8, "grid": 4, "large": 4, "edge": 4}
ORDER = ("normal", "mixed", "grid", "mixed", "large", "edge")
HIDDEN = 1e6
SPREAD = 4  # inputs may have so many times the example's elements,
SMALL = 4096  # or so many


@dataclass(frozen=True)
class InputSpec:
    """What one input may be.

    dims: int, or an expression over dim names. dtype: as torch names it. low, high: inclusive bounds of the values;
    None is no bound for a float, and 0 and 1 for an integer. example: an array it accepted, or None. lead: the value
    that a bool or 0/1 input has at the start of its last axis, where the example always has it there, as a mask does:
    so no row is wholly masked. share: how often a bool is true. kept: an input that is always the example.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    low: float | None = None
    high: float | None = None
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


def counts(examples: int) -> dict[str, int]:
    """How many of so many examples are of each stratum: the measured shares, the most telling first where they are few
    (3 examples: normal, mixed, grid)."""
    drawn = order(examples)
    return {name: drawn.count(name) for name in SHARES}


def order(examples: int) -> list[str]:
    """The strata of so many examples, in turn, so that any first part of them is varied too."""
    found: list[str] = []
    wanted = {name: max(1, round(share * examples / 24)) for name, share in SHARES.items()}
    while len(found) < examples:
        found += [name for name in ORDER if found.count(name) < wanted[name]] or list(ORDER)
    return found[:examples]


def plan(contract: Contract, examples: int, seed: int, mode: str, shapes: int = 3) -> tuple[Case, ...]:
    """Cases of one mode without a search: each stratum's own distribution, at most `shapes` different sizes."""
    rng = np.random.default_rng([seed, {"eval": 1, "train": 2}.get(mode, 3)])
    sizes = variants(contract, seed, shapes)
    return tuple(
        Case(name, int(rng.integers(2**31)), sizes[index % len(sizes)]) for index, name in enumerate(order(examples))
    )


def limits(contract: Contract) -> dict[str, tuple[int, int]]:
    """The sizes that each dim may be drawn from: within the contract's bounds, up to four times the example's."""
    found = {}
    for name, size in contract.sizes:
        low, high = (contract.bounds or {}).get(name, (1, None))
        low = max(low, 1) if high is None or high >= 1 else low
        found[name] = (low, max(low, min(4 * size, high if high is not None else 4 * size)))
    return found


def variants(contract: Contract, seed: int, count: int) -> tuple[Sizes, ...]:
    """At most `count` different sizes, so that little is traced anew: the example's first, then all dims a little
    larger, all halved, one dim at its smallest, all odd or prime, one much larger, and so on."""
    rng = np.random.default_rng([seed, 99])
    found = {contract.sizes: None}
    for attempt in range(8 * count if contract.sizes else 0):
        if len(found) >= count:
            break
        sizes = _afford(contract, _moved(contract, rng, attempt))
        if possible(contract, sizes):
            found[sizes] = None
    return tuple(found)


def _moved(contract: Contract, rng: np.random.Generator, attempt: int) -> Sizes:
    """All dims moved the same way, so that dims which must be equal stay equal, or one size moved alone."""
    more = int(rng.integers(1, 3))
    alone = int(rng.choice(sorted({size for _, size in contract.sizes})))
    first = contract.sizes[0][1]  # as a rule the batch
    ways: tuple[tuple[int | None, Callable[[int], int]], ...] = (
        (None, lambda size: size + more),
        (None, lambda size: max(1, size // 2)),
        (first, lambda size: 1),
        (None, _prime_above),
        (alone, lambda size: 4 * size),
        (None, lambda size: size - 1),
        (None, lambda size: size + 1 + size % 2),
        (None, lambda size: 2),
        (alone, lambda size: size + more),
        (alone, lambda size: 1),
        (None, lambda size: 1),
    )
    which, way = ways[attempt] if attempt < len(ways) else (alone, lambda size: int(rng.integers(1, 2 * size + 2)))
    bounds = limits(contract)
    return tuple(
        (name, min(max(way(size), bounds[name][0]), bounds[name][1]) if which in (None, size) else size)
        for name, size in contract.sizes
    )


def _prime_above(size: int) -> int:
    return next(n for n in range(size + 1, 2 * size + 3) if all(n % d for d in range(2, int(n**0.5) + 1)))


def elements(contract: Contract, sizes: Sizes) -> int:
    """How many elements the inputs have at these sizes."""
    return sum(abs(int(np.prod(contract.shape(spec, Case("", 0, sizes))))) for spec in contract.inputs)


def possible(contract: Contract, sizes: Sizes) -> bool:
    """Whether no free axis is empty, or less, at these sizes ("s - 3" at 2)."""
    named = dict(sizes)
    dims = {dim for spec in contract.inputs for dim in spec.dims if isinstance(dim, str)}
    return all(evaluate_dim(dim, named) > 0 for dim in dims)


def _afford(contract: Contract, sizes: Sizes) -> Sizes:
    """Sizes above the example's brought back, half the way at a time, until the inputs are affordable."""
    most = max(SPREAD * elements(contract, contract.sizes), SMALL)
    own = dict(contract.sizes)
    while sizes != contract.sizes and elements(contract, sizes) > most:
        sizes = tuple((name, own[name] + max(0, size - own[name]) // 2) for name, size in sizes)
    return sizes


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
            arrays.append(_integers(case.distribution, rng, spec, shape))
        elif spec.dtype.startswith("complex"):
            pair = [draw(case.distribution, rng, shape) for _ in range(2)]
            arrays.append((pair[0] + 1j * pair[1]).astype(spec.dtype))
        else:
            values = into_range(draw(case.distribution, rng, shape), case.distribution, spec.low, spec.high, rng)
            arrays.append(round_to(values, spec.dtype))
    return _behind_masks(contract, case, tuple(arrays))


def _behind_masks(contract: Contract, case: Case, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Where inputs are large anyway, what a mask hides is a million times as large, or what it does not hide: so a
    mask that is a large number, and not infinity, shows."""
    if case.distribution not in ("large", "wide", "edge"):
        return arrays
    masks = [(a, 1 if s.lead is None else s.lead) for s, a in zip(contract.inputs, arrays, strict=True) if is_mask(s)]
    found = []
    for spec, array in zip(contract.inputs, arrays, strict=True):
        free = array.dtype.kind == "f" and not spec.kept and spec.low is None and spec.high is None
        for mask, kept in masks if free else ():
            if mask.ndim and array.shape[: mask.ndim] == mask.shape:
                larger = (mask != kept) if case.seed % 2 else (mask == kept)
                larger = larger.reshape(*mask.shape, *[1] * (array.ndim - mask.ndim))
                array = round_to(np.where(larger, array.astype(np.float64) * HIDDEN, array), spec.dtype)
        found.append(array)
    return tuple(found)


def round_to(array: Array, dtype: str) -> Array:
    """Float values rounded to `dtype` (finite ones saturate), carried in float32, or in float64 if dtype is float64."""
    if dtype == "float64":
        return array.astype(np.float64)
    if dtype == "float16":
        held = np.where(np.isinf(array), array, np.clip(array, -65504, 65504))
        return np.asarray(held.astype(np.float16).astype(np.float32))
    if dtype == "bfloat16":
        narrow = array.astype(np.float32)
        bits = narrow.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).astype(np.uint32).view(np.float32)
        return np.asarray(np.where(np.isfinite(narrow), rounded, narrow))
    return array.astype(np.float32)


def is_mask(spec: InputSpec) -> bool:
    """Whether an input says which positions count: a bool, or 0/1 integers."""
    return spec.dtype == "bool" or (spec.lead is not None and (spec.low, spec.high) == (0, 1))


def _integers(distribution: str, rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    if is_mask(spec):
        return _mask(rng, spec, shape)
    low, high = int(spec.low or 0), int(1 if spec.high is None else spec.high)
    if distribution in ("zeros", "constant"):
        return np.full(shape, low if distribution == "zeros" else rng.integers(low, high + 1), spec.dtype)
    values = np.asarray(rng.integers(low, high + 1, shape), spec.dtype)
    if distribution == "ties":
        values = np.asarray(rng.choice(rng.integers(low, high + 1, 2), shape), spec.dtype)
    elif values.size >= 4:  # both ends of the table are always asked for
        values.reshape(-1)[rng.choice(values.size, 2, replace=False)] = low, high
    return values


def _mask(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Full, a prefix of each row, random, or empty where the example does not say that no row may be."""
    kept = 1 if spec.lead is None else spec.lead  # the value of a position that counts
    kind = rng.choice(["random", "ragged", "full", "empty"], p=[0.4, 0.35, 0.15, 0.1])
    values = np.full(shape, kept)
    length = shape[-1] if shape else 1
    if kind == "random" or not shape or (kind == "empty" and spec.lead is not None):
        share = spec.share if spec.dtype == "bool" else 0.5
        values = (rng.random(shape) < share).astype(int)
    elif kind == "ragged":
        ends = rng.integers(0 if spec.lead is None else 1, length + 1, (*shape[:-1], 1))
        values = np.where(np.arange(length) < ends, kept, 1 - kept)
    elif kind == "empty":
        values = np.full(shape, 1 - kept)
    if spec.lead is not None and shape and length:
        values[..., 0] = spec.lead
    return values.astype(spec.dtype)


def spec_of(
    name: str,
    dtype: str,
    dims: Sequence[Dim],
    example: Array | None,
    bound: int | None,
    values: tuple[float, float] | None = None,
) -> InputSpec:
    """The spec of an input from what is known of it.

    bound: the number of rows of the table it indexes, if it does. values: inclusive bounds that were declared. Other
    integers stay within the example's range.
    """
    spec = InputSpec(name, dtype, tuple(dims), example=example)
    floating = dtype.startswith(("float", "bfloat", "complex"))
    if values is not None and dtype != "bool":
        low, high = values
        if bound and not floating:
            low, high = max(low, 0), min(high, bound - 1)
        spec = replace(spec, low=low if floating else int(low), high=high if floating else int(high))
    if example is None or not example.size:
        return spec if floating or values is not None else replace(spec, low=0, high=max(0, (bound or 2) - 1))
    if dtype == "bool":
        return replace(spec, lead=_lead(example), share=min(max(float(example.mean()), 0.1), 0.9))
    if floating:
        return replace(spec, kept=not np.isfinite(example).all())  # an additive mask: its pattern has a meaning
    if values is None:
        low, high = (0, bound - 1) if bound else (int(example.min()), int(example.max()))
        spec = replace(spec, low=low, high=high)
    ones = not bound and (spec.low or 0) >= 0 and spec.high == 1
    if ones and example.ndim > 1 and _lead(example) == 1:  # 1 for real, 0 for padding
        return replace(spec, low=0, high=1, lead=1)
    return spec


def _lead(example: Array) -> int | None:
    """The value at the start of every row, if it is one and the same."""
    if not example.ndim or example.shape[-1] < 2:
        return None
    first = np.unique(example[..., 0])
    return int(first[0]) if first.size == 1 else None
