"""Two arrays that hold the same values in another order: which permutation of axes, and of indices along them, makes
one of the other? numpy only, pure.

Every element is hashed by its bits. The sum of the hashes over all axes but one does not depend on the order along the
others, so these marginals say which axis became which, and which index along it became which, in one pass; whatever
they suggest is then compared in full.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from isomorph.parity.matching.pieces import Index, select
from isomorph.parity.tolerance import Array

__all__ = ["Layout", "fingerprint", "fitting", "marginals", "merged_shapes", "same", "solve", "squeezed"]

Shape = tuple[int, ...]
CHUNK = 1 << 20
ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Layout:
    """`b.reshape(target_view) == select(a.reshape(view), source).transpose(permutation)`. others: how many more
    permutations of whole axes give the same values (an array of zeros has many). at: where the kept axes are in the
    two views."""

    view: Shape
    source: tuple[Index, ...]
    permutation: Shape
    target_view: Shape
    others: int = 0
    at: tuple[int, int] | None = None


def fingerprint(array: Array) -> int:
    """A hash of the multiset of an array's values; -0.0 counts as 0.0."""
    flat, total = array.reshape(-1), 0
    for start in range(0, flat.size, CHUNK):
        total += int(_hash(flat[start : start + CHUNK]).sum())
    return total % 2**64


def marginals(array: Array) -> list[Array]:
    """For each axis the hash of the values at each index along it, whatever their order."""
    hashed = _hash(array)
    return [_sum_but(hashed, axis) for axis in range(array.ndim)]


def squeezed(shape: Sequence[int], keep: int | None = None) -> Shape:
    """The shape without its axes of size 1, apart from `keep`."""
    return tuple(size for axis, size in enumerate(shape) if size != 1 or axis == keep)


def merged_shapes(shape: Shape, keep: int | None = None) -> Iterator[tuple[Shape, int | None]]:
    """Every shape that merging neighbouring axes gives, most axes first, and where `keep`, never merged, is then."""
    count = max(0, len(shape) - 1)
    cuts = sorted(itertools.product((True, False), repeat=count), key=lambda cut: -sum(cut))
    for cut in cuts:
        groups: list[list[int]] = [[0]] if shape else []
        for axis, apart in enumerate(cut, 1):
            if apart:
                groups.append([axis])
            else:
                groups[-1].append(axis)
        if keep is not None and [keep] not in groups:
            continue
        yield (
            tuple(math.prod(shape[axis] for axis in group) for group in groups),
            None if keep is None else groups.index([keep]),
        )


def solve(
    a: Array, b: Array, keep: tuple[int, int] | None = None, prefer: Sequence[Shape] = (), reorder: bool = True
) -> Layout | None:
    """How b comes from a, or None.

    Whole axes are tried first, then axes that are merged or split, then another order along axes.

    Args:
        keep: an axis of a and the axis of b that is the same, index by index; both stay unmerged.
        prefer: permutations to be tried first where several give the same values.
        reorder: whether another order along an axis is allowed.
    """
    pairs = _views(a.shape, b.shape, keep)
    for view, target_view, at in pairs:
        left, right = a.reshape(view), b.reshape(target_view)
        fits = [p for p in fitting(view, target_view, at) if same(left.transpose(p), right)]
        if fits:
            best = next((p for p in prefer if p in fits), fits[0])
            return Layout(view, (None,) * len(view), best, target_view, len(fits) - 1, at)
    for view, target_view, at in pairs if reorder else ():
        found = _reordered(a.reshape(view), b.reshape(target_view), at)
        if found is not None:
            return found
    return None


def fitting(shape: Shape, target: Shape, at: tuple[int, int] | None = None) -> Iterator[Shape]:
    """The permutations of axes that make one shape of the other, in lexicographic order."""
    for permutation in itertools.permutations(range(len(shape))):
        if at is not None and permutation[at[1]] != at[0]:
            continue
        if all(shape[axis] == size for axis, size in zip(permutation, target, strict=True)):
            yield permutation


def same(left: Array, right: Array) -> bool:
    """Equal elements, NaN equal to NaN; a line along each axis is looked at first."""
    if left.shape != right.shape:
        return False
    for axis in range(left.ndim):
        line = tuple(slice(None) if k == axis else size // 2 for k, size in enumerate(left.shape))
        if left.size and not _equal(left[line], right[line]):
            return False
    return _equal(left, right)


def _views(
    shape: Shape, target: Shape, keep: tuple[int, int] | None
) -> list[tuple[Shape, Shape, tuple[int, int] | None]]:
    """Pairs of views of the same sizes in any order, those with the most axes first."""
    first, second = keep or (None, None)
    small, kept = _squeeze(shape, first)
    target_small, target_kept = _squeeze(target, second)
    pairs = []
    for view, at in merged_shapes(small, kept):
        for target_view, target_at in merged_shapes(target_small, target_kept):
            if sorted(view) == sorted(target_view):
                both = None if at is None or target_at is None else (at, target_at)
                pairs.append((view, target_view, both))
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _squeeze(shape: Shape, keep: int | None) -> tuple[Shape, int | None]:
    axes = [axis for axis, size in enumerate(shape) if size != 1 or axis == keep]
    return tuple(shape[axis] for axis in axes), None if keep is None else axes.index(keep)


def _reordered(a: Array, b: Array, at: tuple[int, int] | None) -> Layout | None:
    if not a.ndim:
        return None
    hashes = _hash(a), _hash(b)
    sides = [[_sum_but(hashed, axis) for axis in range(a.ndim)] for hashed in hashes]
    for attempt in range(ROUNDS + 1):
        if attempt:
            sides = [_refined(hashed, labels) for hashed, labels in zip(hashes, sides, strict=True)]
        left, right = sides
        ordered = [np.sort(labels) for labels in left], [np.sort(labels) for labels in right]
        for permutation in fitting(a.shape, b.shape, at):
            if not all(_equal(ordered[0][axis], ordered[1][k]) for k, axis in enumerate(permutation)):
                continue
            source: list[Index] = [None] * a.ndim
            for k, axis in enumerate(permutation):
                if at is None or axis != at[0]:
                    source[axis] = _order(left[axis], right[k])
            if same(select(a, source).transpose(permutation), b):
                return Layout(a.shape, tuple(source), permutation, b.shape, 0, at)
        if a.ndim == 1:
            return None
    return None


def _order(labels: Array, wanted: Array) -> Index:
    """The indices that put `labels` in the order of `wanted`; None where they are in it."""
    if _equal(labels, wanted):
        return None
    order = np.empty(len(labels), np.int64)
    order[np.argsort(wanted, kind="stable")] = np.argsort(labels, kind="stable")
    return order


def _refined(hashed: Array, labels: list[Array]) -> list[Array]:
    """Marginals that also see where along the other axes an element is, as far as their indices can be told apart."""
    refined = []
    for axis in range(hashed.ndim):
        weighted = hashed.copy()
        for other in range(hashed.ndim):
            if other != axis:
                shape = [-1 if k == other else 1 for k in range(hashed.ndim)]
                weighted *= _mix(labels[other].copy()).reshape(shape) | np.uint64(1)
        refined.append(_sum_but(weighted, axis))
    return refined


def _sum_but(hashed: Array, axis: int) -> Array:
    total: Array = hashed.sum(axis=tuple(k for k in range(hashed.ndim) if k != axis), dtype=np.uint64)
    return total


def _hash(array: Array) -> Array:
    if array.dtype.kind == "f":
        array = array + array.dtype.type(0)  # -0.0 becomes 0.0
        wide = np.ascontiguousarray(array).view(np.uint32 if array.dtype.itemsize == 4 else np.uint64)
        return _mix(wide.astype(np.uint64))
    return _mix(array.astype(np.int64).view(np.uint64).copy())


def _mix(bits: Array) -> Array:
    """A finaliser that spreads every bit over all others; in place."""
    bits += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def _equal(left: Array, right: Array) -> bool:
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))
