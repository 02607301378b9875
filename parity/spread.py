"""How the errors of one array are spread over its elements: a histogram of their logarithms. numpy only, pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isomorph.parity.tolerance import Array

__all__ = ["EDGES", "Spread", "spread_of"]

LOW, HIGH, PER_DECADE = -18, 2, 2
EDGES: tuple[float, ...] = tuple(LOW + step / PER_DECADE for step in range((HIGH - LOW) * PER_DECADE + 1))
"""log10 of the error relative to scale. What lies below the first edge is counted in the first bin, what lies above the
last one, or is not finite, in the last."""
BINS = len(EDGES) - 1


@dataclass
class Spread:
    """counts: elements per bin of `EDGES`. floor: likewise of the original's own error; zeros where it was not
    measured. exact, floor_exact: elements without any error, which are in no bin."""

    counts: Array
    exact: int = 0
    floor: Array | None = None
    floor_exact: int = 0

    @classmethod
    def nothing(cls) -> Spread:
        """Of no element."""
        return cls(np.zeros(BINS, np.int64))

    def add(self, other: Spread) -> None:
        """Count another array's elements, too."""
        self.counts = self.counts + other.counts
        self.exact += other.exact
        if other.floor is not None:
            self.floor = other.floor if self.floor is None else self.floor + other.floor
            self.floor_exact += other.floor_exact


def spread_of(relative: Array, own: Array | None = None, special: Array | None = None) -> Spread:
    """Of an array's errors, relative to its scale. own: the original's own errors, likewise. special: where there is
    nothing to be compared (not finite in the original)."""
    if special is not None and special.any():
        relative = relative[~special]
        own = None if own is None else own[~special]
    counts, exact = _counted(relative)
    if own is None:
        return Spread(counts, exact)
    return Spread(counts, exact, *_counted(own))


def _counted(relative: Array) -> tuple[Array, int]:
    """(elements per bin, elements that are 0). In float32, whose logarithm is many times as fast as float64's: an edge
    is off by a millionth of a decade."""
    flat = np.ravel(relative)
    exact = int(flat.size - np.count_nonzero(flat))
    inside = np.fmax(np.fmin(flat, 10.0**HIGH), 10.0**LOW).astype(np.float32)  # NaN is in the last bin
    np.log(inside, out=inside)
    inside *= PER_DECADE / math.log(10.0)
    inside -= LOW * PER_DECADE
    bins = np.bincount(inside.astype(np.intp), minlength=BINS + 1)
    bins[BINS - 1] += bins[BINS]  # the last edge belongs to the last bin
    bins[0] -= exact
    return bins[:BINS], exact
