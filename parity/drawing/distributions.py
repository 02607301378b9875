"""Where the values of a drawn input come from: named distributions, each determined by a generator and a shape.

What each is for, in order of simplicity, in which a counterexample shrinks:

    zeros           +0 and -0: 0/0, 1/x, the sign of zero
    constant        one value throughout: no variance, every element a tie
    onehot          a single 1 in each row
    integers        -3 .. 3: exact arithmetic, many ties
    grid            multiples of 0.5: ties, zeros and bounds, where subgradients differ
    ties            few distinct values, none of them round
    sparse          nine zeros of ten
    equal_channels  all slices along axis 1, or along the last axis, are the same
    normal          standard normal: what a trained model sees
    tiny            1e-45 .. 1e-30: subnormal in float32, squares vanish
    wide            log-uniform from 1e-8 to 1e4, both signs
    large           tens to hundreds: saturation, clipped exponentials
    mixed           scales, zeros, ties and signs in one tensor: the best single distribution
    edge            rows of zeros, of constants, of 78..88, 1e-15 and 1e4: epsilons in the wrong place
    special         normal with NaN and infinities sprinkled in: for a phase of its own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from isomorph.parity.tolerance import Array

__all__ = ["DISTRIBUTIONS", "FINITE", "draw", "into_range"]

Shape = tuple[int, ...]
Generator = np.random.Generator


def draw(distribution: str, rng: Generator, shape: Shape) -> Array:
    """A float64 array, finite unless the distribution is "special". ValueError for an unknown distribution."""
    if distribution not in _DRAWS:
        raise ValueError(f"unknown distribution {distribution!r}; known: {', '.join(DISTRIBUTIONS)}")
    return np.asarray(_DRAWS[distribution](rng, shape), np.float64)


def into_range(values: Array, distribution: str, low: float | None, high: float | None, rng: Generator) -> Array:
    """Values moved into [low, high], None for no bound; both ends are present where there is room.

    A range of finite width takes three standard deviations to each side of its middle, so that ties stay ties. What is
    about zero (zeros, tiny, onehot, sparse) is clipped instead, and stays about zero where the range has it.
    """
    if low is None and high is None:
        return values
    if low is None or high is None or distribution in _ABOUT_ZERO:
        return np.asarray(np.clip(values, low, high))
    moved = np.clip((low + high) / 2 + (high - low) / 6 * values, low, high)
    if distribution not in _STRUCTURED and moved.size >= 4:
        ends = rng.choice(moved.size, 2, replace=False)
        moved.reshape(-1)[ends] = low, high
    return np.asarray(moved)


def _zeros(rng: Generator, shape: Shape) -> Array:
    return rng.choice([0.0, -0.0], shape)


def _constant(rng: Generator, shape: Shape) -> Array:
    return np.full(shape, rng.choice([1.0, -1.0, 0.5, 3.0, rng.standard_normal()]))


def _onehot(rng: Generator, shape: Shape) -> Array:
    values = np.zeros(shape)
    if values.size:
        rows = values.reshape(-1, shape[-1] if shape else 1)
        rows[np.arange(len(rows)), rng.integers(0, rows.shape[1], len(rows))] = 1.0
    return values


def _ties(rng: Generator, shape: Shape) -> Array:
    return rng.choice(rng.standard_normal(3), shape)


def _sparse(rng: Generator, shape: Shape) -> Array:
    return rng.standard_normal(shape) * (rng.random(shape) < 0.1)


def _equal_channels(rng: Generator, shape: Shape) -> Array:
    if not shape:
        return rng.standard_normal(shape)
    axis = int(rng.choice([min(1, len(shape) - 1), len(shape) - 1]))
    one = tuple(1 if index == axis else size for index, size in enumerate(shape))
    return np.array(np.broadcast_to(rng.standard_normal(one), shape))


def _decades(low: float, high: float) -> Callable[[Generator, Shape], Array]:
    def drawn(rng: Generator, shape: Shape) -> Array:
        return rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(low, high, shape)

    return drawn


def _mixed(rng: Generator, shape: Shape) -> Array:
    base = np.asarray(rng.standard_normal(shape))
    scaled = base * 10.0 ** rng.uniform(-3, 1.3, shape)
    grid = rng.integers(-6, 7, shape) * 0.5
    values = np.select([(kind := rng.random(shape)) < 0.45, kind < 0.7, kind < 0.85], [base, scaled, grid], 0.0)
    if values.size > 1:  # ties: some elements repeat others
        flat = values.reshape(-1)
        count = max(1, flat.size // 12)
        flat[rng.integers(0, flat.size, count)] = flat[rng.integers(0, flat.size, count)]
    return np.asarray(values)


def _edge(rng: Generator, shape: Shape) -> Array:
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


def _special(rng: Generator, shape: Shape) -> Array:
    values = np.asarray(rng.standard_normal(shape))
    flat = values.reshape(-1)
    if flat.size:
        count = max(1, flat.size // 20)
        flat[rng.integers(0, flat.size, count)] = rng.choice([np.nan, np.inf, -np.inf], count)
    return values


_DRAWS: Mapping[str, Callable[[Generator, Shape], Array]] = {
    "zeros": _zeros,
    "constant": _constant,
    "onehot": _onehot,
    "integers": lambda rng, shape: rng.integers(-3, 4, shape),
    "grid": lambda rng, shape: rng.integers(-6, 7, shape) * 0.5,
    "ties": _ties,
    "sparse": _sparse,
    "equal_channels": _equal_channels,
    "normal": lambda rng, shape: np.asarray(rng.standard_normal(shape)),
    "tiny": _decades(-45, -30),
    "wide": _decades(-8, 4),
    "large": lambda rng, shape: np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(1, 2.3)),
    "mixed": _mixed,
    "edge": _edge,
    "special": _special,
}
DISTRIBUTIONS = tuple(_DRAWS)
FINITE = tuple(name for name in DISTRIBUTIONS if name != "special")
_ABOUT_ZERO = frozenset({"zeros", "tiny", "onehot", "sparse"})
_STRUCTURED = frozenset({"constant", "equal_channels"})  # an end put in would break what they are for
