"""What is left when every equal value has been matched: sums, multiples, arrays that differ in a few elements, and
arrays that nothing but their name or shape speaks for. Each such match says what is unusual about it. numpy only, pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from isomorph.parity.matching.held import Held, normalised, parents
from isomorph.parity.matching.pieces import Piece, WeightMatch
from isomorph.parity.matching.solve_layout import Shape, fitting, merged_shapes, squeezed
from isomorph.parity.tolerance import Array

__all__ = ["near_matches"]

WORK = 2e8  # elements that may be looked at in the search for near misses
SHARE = 0.5  # of the elements must be equal for an array to be the same one with an error in it
CLOSE = 0.02  # relative distance up to which it is the same one, inexactly
ULPS = 16.0
MANY = 32  # vectors of a size, from which only those of one module are added up

Usual = Callable[[int], Sequence[Shape]]


@dataclass(frozen=True)
class _Fit:
    """How near an array comes to another under one permutation. distance: 0 for equal, 1 for unrelated."""

    distance: float
    piece: Piece
    note: str


def near_matches(a: Mapping[str, Held], b: Mapping[str, Held], usual: Usual) -> Iterator[WeightMatch]:
    """Matches of what is left on both sides. The caller removes from `a` and `b` what it takes, before it asks for the
    next."""
    yield from _sums(a, b)
    yield from _nearest(a, b)
    yield from _shapes(a, b, usual)


def _sums(a: Mapping[str, Held], b: Mapping[str, Held]) -> Iterator[WeightMatch]:
    """Vectors that are the sum of two: the biases of a recurrent layer."""
    for other, held in list(b.items()):
        if not _is_float(held) or len(squeezed(held.array.shape)) > 1:
            continue
        there = held.at(held.kept).reshape(-1)
        vectors = {
            name: one.at(held.kept).reshape(-1)
            for name, one in a.items()
            if _is_float(one) and one.array.size == there.size and len(squeezed(one.array.shape)) < 2
        }
        for pair in combinations(vectors, 2):
            if len(vectors) > MANY and parents(pair[0])[:1] != parents(pair[1])[:1]:
                continue
            left, right = (vectors[name] for name in pair)
            room = ULPS * np.finfo(there.dtype).eps * float(np.max(np.abs([left, right]), initial=0.0))
            if np.any(left) and np.any(right) and np.all(np.abs(left + right - there) <= room):
                size = (there.size,)
                for name in pair:
                    note = f"{other} is the sum of {pair[0]} and {pair[1]}"
                    piece = Piece(name, other, size, (None,), (0,), size, (None,))
                    yield WeightMatch(name, (piece,), "sum", note)
                break


def _nearest(a: Mapping[str, Held], b: Mapping[str, Held]) -> Iterator[WeightMatch]:
    """Multiples, and arrays that are equal but for a few elements or a little everywhere."""
    pairs = [
        (name, other) for name, one in a.items() for other, two in b.items()
        if _is_float(one) and _is_float(two) and one.array.size == two.array.size > 1
    ]  # fmt: skip
    if sum(a[name].array.size for name, _ in pairs) > WORK:
        return
    fits = [(fit.distance, name, other, fit) for name, other in pairs for fit in _fits(a[name], b[other])]
    for _, name, other, fit in sorted(fits, key=lambda item: item[0]):
        if name in a and other in b:
            how = "near" if fit.piece.scale == 1.0 else "value"
            yield WeightMatch(name, (fit.piece,), how, fit.note)


def _fits(one: Held, two: Held) -> Iterator[_Fit]:
    """The best of all views and permutations of whole axes, if it is near."""
    left, right = one.at(two.kept), two.at(two.kept)
    if not (np.all(np.isfinite(left)) and np.all(np.isfinite(right)) and np.ptp(left) and np.any(right)):
        return
    best: _Fit | None = None
    for view, target_view in _views(left.shape, right.shape):
        for permutation in fitting(view, target_view):
            moved, there = left.reshape(view).transpose(permutation), right.reshape(target_view)
            distance, scale, note = _distance(moved, there)
            if distance <= CLOSE and (best is None or distance < best.distance):
                nothing = (None,) * len(view)
                piece = Piece(one.name, two.name, view, nothing, permutation, target_view, nothing, scale)
                best = _Fit(distance, piece, note)
    if best is not None:
        yield best


def _distance(left: Array, right: Array) -> tuple[float, float, str]:
    """(distance, scale, what is unusual) of two float arrays of the same shape."""
    differing = int(np.sum(left != right))
    if differing <= (1 - SHARE) * left.size:
        return CLOSE * differing / left.size, 1.0, f"differs in {differing} of {left.size} elements"
    a, b = left.astype(np.float64), right.astype(np.float64)
    scale = float(np.vdot(a, b) / np.vdot(a, a))
    distance = float(np.linalg.norm(b - scale * a) / np.linalg.norm(b))
    room = ULPS * float(np.finfo(right.dtype).eps)
    if abs(scale - 1) <= room or (distance > room and abs(scale - 1) <= CLOSE):
        distance = float(np.linalg.norm(b - a) / np.linalg.norm(b))
        return distance, 1.0, f"differs by {distance:.1e} of its norm"
    return (distance if distance <= room else 1.0), scale, f"is held times {scale:.6g}"


def _shapes(a: Mapping[str, Held], b: Mapping[str, Held], usual: Usual) -> Iterator[WeightMatch]:
    """By name, else where exactly one array of a shape is left on each side."""
    for by in (_by_name, _by_dims):
        for name, other in list(by(a, b)):
            if name in a and other in b:
                view, target_view = squeezed(a[name].array.shape), squeezed(b[other].array.shape)
                fits = list(fitting(view, target_view))
                if fits:
                    best = next((p for p in usual(len(view)) if p in fits), fits[0])
                    nothing = (None,) * len(view)
                    piece = Piece(name, other, view, nothing, best, target_view, nothing)
                    yield WeightMatch(name, (piece,), "shape", "holds other values")


def _by_name(a: Mapping[str, Held], b: Mapping[str, Held]) -> Iterator[tuple[str, str]]:
    names = {normalised(other): other for other in b}
    for name, held in a.items():
        other = names.get(normalised(name))
        if other is not None and _dims(held) == _dims(b[other]):
            yield name, other


def _by_dims(a: Mapping[str, Held], b: Mapping[str, Held]) -> Iterator[tuple[str, str]]:
    for name, held in a.items():
        if _is_float(held):
            same = [other for other in a if _is_float(a[other]) and _dims(a[other]) == _dims(held)]
            there = [other for other in b if _is_float(b[other]) and _dims(b[other]) == _dims(held)]
            if len(same) == len(there) == 1:
                yield name, there[0]


def _dims(held: Held) -> list[int]:
    return sorted(squeezed(held.array.shape))


def _views(shape: Shape, target: Shape) -> Iterator[tuple[Shape, Shape]]:
    for view, _ in merged_shapes(squeezed(shape)):
        for target_view, _ in merged_shapes(squeezed(target)):
            if sorted(view) == sorted(target_view) and (len(view) > 1 or len(squeezed(shape)) < 2):
                yield view, target_view


def _is_float(held: Held) -> bool:
    return held.array.dtype.kind == "f"
