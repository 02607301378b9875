"""Arrays that were split or joined: slices along an axis of one model's arrays found in the other's. numpy only, pure.

A fused projection becomes three kernels, three kernels one, a bias pair the rows of a matrix. Each slice along each
axis is known by the hash of its values, whatever their order; an array of the converted model all of whose slices are
slices of the original's is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from isomorph.parity.matching.pieces import Index, Piece
from isomorph.parity.matching.solve_layout import Shape, marginals, merged_shapes, solve, squeezed
from isomorph.parity.tolerance import Array

__all__ = ["match_slices"]


_NONE: set[int] = set()
TRIED = 4  # axes of the original that are tried for a slice, those that explain most slices first


@dataclass(frozen=True)
class _Axis:
    """An axis of a view of one of the original's arrays."""

    name: str
    view: Shape
    axis: int


@dataclass
class _Table:
    """(elements, hash) of a slice -> where it is in the original."""

    slices: dict[tuple[int, int], dict[_Axis, list[int]]] = field(default_factory=dict)

    def add(self, name: str, array: Array, view: Shape) -> None:
        for axis, labels in enumerate(marginals(array.reshape(view))):
            self._put(_Axis(name, view, axis), array.size // view[axis], labels)
        whole = (1, *view)
        self._put(_Axis(name, whole, 0), array.size, marginals(array.reshape(whole))[0])

    def _put(self, where: _Axis, size: int, labels: Array) -> None:
        for index, label in enumerate(labels.tolist()):
            self.slices.setdefault((size, label), {}).setdefault(where, []).append(index)


def match_slices(a: Mapping[str, Array], b: Mapping[str, Array], flat: bool = False) -> dict[str, list[Piece]]:
    """Pieces by the original's name, for those whose elements are all found, in arrays that hold nothing else.

    flat: look at single elements, for what was flattened and then joined (small arrays only: this is slow).
    """
    table = _Table()
    for name, array in a.items():
        if array.size:
            table.add(name, array, (array.size,) if flat else squeezed(array.shape))
    claimed: dict[_Axis, set[int]] = {}
    found: dict[str, list[Piece]] = {}
    for name, array in b.items():
        pieces = _made_of(name, array, a, table, claimed)
        if pieces:
            found[name] = pieces
    return _complete(found, a)


def _made_of(
    name: str, array: Array, a: Mapping[str, Array], table: _Table, claimed: dict[_Axis, set[int]]
) -> list[Piece] | None:
    """The pieces of one array of the converted model, or None. What they use is added to `claimed`."""
    if not array.size:
        return None
    small = squeezed(array.shape)
    shapes = [*(shape for shape, _ in merged_shapes(small)), (1, *small)]
    for view in dict.fromkeys(shapes):
        whole = array.reshape(view)
        for axis, labels in enumerate(marginals(whole)):
            size = array.size // view[axis]
            options = [table.slices.get((size, label)) for label in labels.tolist()]
            if all(options):
                chosen = _choose([option for option in options if option], claimed)
                pieces = [_piece(name, whole, axis, a, *group) for group in chosen or ()]
                if chosen and None not in pieces:
                    for where, indices, _ in chosen:
                        claimed.setdefault(where, set()).update(indices)
                    return [piece for piece in pieces if piece is not None]
    return None


def _choose(
    options: Sequence[Mapping[_Axis, list[int]]], claimed: Mapping[_Axis, set[int]]
) -> list[tuple[_Axis, list[int], list[int]]] | None:
    """(where in the original, its indices, their places here), the axis that explains most slices first."""
    left = dict(enumerate(options))
    chosen = []
    used = {where: set(indices) for where, indices in claimed.items()}
    while left:
        votes: dict[_Axis, int] = {}
        for option in left.values():
            for where, indices in option.items():
                if not used.get(where, _NONE).issuperset(indices):
                    votes[where] = votes.get(where, 0) + 1
        groups = []
        for where in sorted(votes, key=lambda where: -votes[where])[:TRIED]:
            group = _take(where, left, used.get(where, set()))
            groups.append((where, *group))
        if not groups:
            return None
        where, indices, at = max(groups, key=lambda group: len(group[1]))
        if not indices:
            return None
        used.setdefault(where, set()).update(indices)
        chosen.append((where, indices, at))
        for place in at:
            del left[place]
    return chosen


def _take(where: _Axis, left: Mapping[int, Mapping[_Axis, list[int]]], used: set[int]) -> tuple[list[int], list[int]]:
    """For each slice that is on this axis an index of it that is not used yet, and its place."""
    free: dict[int, list[int]] = {}
    indices, at = [], []
    for place, option in left.items():
        known = option.get(where)
        if known is None:
            continue
        queue = free.setdefault(id(known), [index for index in reversed(known) if index not in used])
        if queue:
            indices.append(queue.pop())
            at.append(place)
    return indices, at


def _piece(
    name: str, whole: Array, axis: int, a: Mapping[str, Array], where: _Axis, indices: list[int], at: list[int]
) -> Piece | None:
    here = a[where.name].reshape(where.view)
    source, target = np.array(indices), np.array(at)
    layout = solve(np.take(here, source, where.axis), np.take(whole, target, axis), keep=(where.axis, axis))
    if layout is None or layout.at is None:
        return None
    first, second = layout.at
    view, target_view = list(layout.view), list(layout.target_view)
    view[first], target_view[second] = here.shape[where.axis], whole.shape[axis]
    sources, targets = list(layout.source), [None] * len(target_view)
    return Piece(
        where.name, name, tuple(view), _at(sources, first, source, view[first]), layout.permutation,
        tuple(target_view), _at(targets, second, target, target_view[second]),
    )  # fmt: skip


def _at(indices: Sequence[Index], axis: int, index: Array, size: int) -> tuple[Index, ...]:
    found = list(indices)
    found[axis] = None if np.array_equal(index, np.arange(size)) else index
    return tuple(found)


def _complete(found: dict[str, list[Piece]], a: Mapping[str, Array]) -> dict[str, list[Piece]]:
    """Only what is complete: originals with every element in a piece, in arrays made of such originals."""
    found = dict(found)
    while True:
        covered: dict[str, Array] = {}
        for piece in (piece for pieces in found.values() for piece in pieces):
            counts = covered.setdefault(piece.original, np.zeros(a[piece.original].shape, np.int8))
            piece.write_back(counts, np.ones((), np.int8), add=True)
        partial = {name for name, counts in covered.items() if not np.all(counts == 1)}
        wrong = [name for name, pieces in found.items() if any(piece.original in partial for piece in pieces)]
        if not wrong:
            break
        for name in wrong:
            del found[name]
    by_original: dict[str, list[Piece]] = {}
    for pieces in found.values():
        for piece in pieces:
            by_original.setdefault(piece.original, []).append(piece)
    return by_original
