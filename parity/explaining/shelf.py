"""The arrays of a trace, found again by value under a permutation of their axes. numpy only, pure.

No names are needed: a converted model may call its layers as it likes, keep channels last, and merge axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from isomorph.parity.compare import canonical
from isomorph.parity.tolerance import Array, rms, scale_of

__all__ = ["Hit", "Shelf", "arranged", "laid_out", "placed", "placements"]

AXES = 6  # axes longer than 1 of which every order is tried
WORK = 2e8  # element comparisons that one search for the nearest array may cost
SAMPLE = 4096  # elements by which the order of axes is told
LIKE = 0.5  # correlation from which two arrays are taken for the same quantity


@dataclass(frozen=True)
class Hit:
    """An array of the shelf that stands for another. label: as it was put there. array: its values in the other's axis
    order. error: the largest difference over the scale. likeness: 1 equal, 0 unrelated."""

    label: int
    array: Array
    error: float
    likeness: float = 1.0


@dataclass
class _Item:
    label: int
    flat: Array
    total: float
    size: float


@dataclass
class Shelf:
    """Arrays by their number of elements."""

    _items: dict[int, list[_Item]] = field(default_factory=dict)

    def add(self, label: int, array: Array) -> None:
        """Put an array there under a label of its own. Empty arrays are left out."""
        flat = _flat(array)
        if flat.size:
            total, size = _sums(flat)
            self._items.setdefault(flat.size, []).append(_Item(label, flat, total, size))

    def find(self, array: Array, allowed: Array, without: frozenset[int] = frozenset()) -> Hit | None:
        """An array that equals this one within `allowed` (elementwise, same shape) in some order of its axes. without:
        labels to leave out."""
        ref = _plain(array)
        total, size = _sums(np.ravel(ref))
        slack = float(np.sum(np.where(np.isfinite(ref), allowed, 0.0))) * (1 + 1e-9) + 1e-12 * size
        close = [
            item
            for item in self._items.get(ref.size, ())
            if abs(item.total - total) <= slack and abs(item.size - size) <= slack and item.label not in without
        ]
        if not close:
            return None
        for order in orders(ref.shape):
            flat, limit = np.ravel(ref.transpose(order)), np.ravel(allowed.transpose(order))
            for item in close:
                if _agrees(flat[:16], item.flat[:16], limit[:16]) and _agrees(flat, item.flat, limit):
                    return _hit(ref, item, order, 1.0)
        return None

    def nearest(self, array: Array, without: frozenset[int] = frozenset(), work: float = WORK) -> Hit | None:
        """The array that is most like this one; None where there is none of its size, or they are too many to search.
        without: labels to leave out. work: element comparisons that it may cost."""
        ref = _plain(array)
        items = [i for i in self._items.get(ref.size, ()) if i.label not in without]
        order_list = list(orders(ref.shape))
        if not items or len(items) * len(order_list) * ref.size > work:
            return None
        best: tuple[tuple[bool, float], float, _Item, tuple[int, ...]] | None = None
        for order in order_list:
            flat = np.ravel(ref.transpose(order))
            for item in items:
                alike, error = likeness(flat, item.flat), rms(_apart(flat, item.flat))
                rank = (True, -error) if alike > LIKE else (False, alike)  # among several that are alike, the nearest
                if best is None or rank > best[0]:
                    best = rank, alike, item, order
        return None if best is None else _hit(ref, best[2], best[3], best[1])

    def rearranged(self, array: Array, without: frozenset[int] = frozenset()) -> Hit | None:
        """An array that has the same elements in another order, and more than one different element."""
        ref = _plain(array)
        wanted = np.sort(np.ravel(ref))
        if wanted.size < 3 or not np.isfinite(wanted).all() or wanted[0] == wanted[-1]:
            return None
        limit = np.full(wanted.shape, 1e-7 * rms(wanted))
        for item in self._items.get(ref.size, ()):
            if item.label not in without and _agrees(wanted, np.sort(item.flat), limit):
                order = max(orders(ref.shape), key=lambda o: _kept(ref, item.flat, o))
                return _hit(ref, item, order, 1.0)
        return None

    def sized(self, size: int, without: frozenset[int] = frozenset()) -> Iterator[Array]:
        """Every array with so many elements, flat, the last put there first. without: labels to leave out."""
        for item in reversed(self._items.get(size, ())):
            if item.label not in without:
                yield item.flat

    def same(self, hit: Hit) -> frozenset[int]:
        """The labels of all arrays that equal this one in some order of axes."""
        total, size = _sums(np.ravel(hit.array))
        slack = 1e-9 * size
        items = [i for i in self._items.get(hit.array.size, ()) if abs(i.total - total) <= slack >= abs(i.size - size)]
        limit = np.full(hit.array.size, 1e-9 * max(rms(hit.array), 1e-300))
        found = {hit.label}
        for order in orders(hit.array.shape) if len(items) > 1 else ():
            flat = np.ravel(hit.array.transpose(order))
            found |= {item.label for item in items if item.label not in found and _agrees(flat, item.flat, limit)}
        return frozenset(found)


def arranged(array: Array, like: Array) -> Array | None:
    """`array` with its axes in the order in which it is nearest to `like`, in `like`'s shape; None where the sizes
    differ."""
    shelf = Shelf()
    shelf.add(0, array)
    hit = shelf.nearest(like)
    return None if hit is None else hit.array


def placed(array: Array, like: Array) -> Array | None:
    """As `arranged`, judged by at most `SAMPLE` elements: for arrays that are known to be the same quantity."""
    ref, flat = _plain(like), _flat(array)
    if ref.size != flat.size:
        return None
    at = np.arange(0, ref.size, max(1, ref.size // SAMPLE) | 1)  # odd: no multiple of an axis, as a rule

    def apart(order: tuple[int, ...]) -> float:
        view = ref.transpose(order)
        return rms(_apart(view[np.unravel_index(at, view.shape)], flat[at]))

    order = min(orders(ref.shape), key=apart) if ref.ndim else ()
    return np.asarray(flat.reshape([ref.shape[axis] for axis in order]).transpose(np.argsort(order).astype(int)))


def laid_out(array: Array, like: Array) -> Array | None:
    """`array` in the shape of `like`, its axes moved to where it is nearest to it; None where the sizes differ."""
    ref = _plain(array)
    best: tuple[float, Array] | None = None
    if array.size != like.size:
        return None
    other = _flat(like)
    for order in orders(ref.shape):
        flat = np.ravel(ref.transpose(order))
        error = rms(_apart(flat, other))
        if best is None or error < best[0]:
            best = error, flat
    return None if best is None else best[1].reshape(like.shape)


def placements(flat: Array, like: Array) -> Iterator[Array]:
    """A flat array in the shape of `like`: the order of axes in which it is nearest, first as it lies."""
    yield flat.reshape(like.shape)
    placed = arranged(flat, like)
    if placed is not None and not np.array_equal(placed, flat.reshape(like.shape)):
        yield placed


def orders(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Permutations of the axes that differ in memory: axes of size 1 stay where they are."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    if len(long) > AXES:
        yield tuple(range(len(shape)))
        return
    for permuted in itertools.permutations(long):
        order = list(range(len(shape)))
        for place, axis in zip(long, permuted, strict=True):
            order[place] = axis
        yield tuple(order)


def likeness(left: Array, right: Array) -> float:
    """How much two flat arrays are one quantity: their correlation, in magnitude; 1 for equal ones."""
    good = np.isfinite(left) & np.isfinite(right)
    if not good.any():
        return 0.0
    a, b = left[good], right[good]
    if a.size < 3 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        scale = max(rms(a), rms(b), 1e-300)
        return max(0.0, 1.0 - rms(a - b) / scale)
    a, b = a - a.mean(), b - b.mean()
    return float(abs(np.dot(a, b)) / max(np.sqrt(np.dot(a, a) * np.dot(b, b)), 1e-300))


def _kept(ref: Array, flat: Array, order: tuple[int, ...]) -> tuple[int, float]:
    """How much of the arrangement is kept if the other array's axes come in this order: the number of axes along which
    every line has the same elements; then nearness."""
    array = flat.reshape(tuple(ref.shape[axis] for axis in order)).transpose(np.argsort(order))
    limit = 1e-7 * rms(ref)
    same = sum(bool(np.all(np.abs(np.sort(array, a) - np.sort(ref, a)) <= limit)) for a in range(ref.ndim))
    return same, -rms(array - ref)


def _apart(left: Array, right: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(
            np.nan_to_num(np.where(left == right, 0.0, left - right), nan=0.0, posinf=1e300, neginf=-1e300)
        )


def _hit(ref: Array, item: _Item, order: tuple[int, ...], alike: float) -> Hit:
    shape = tuple(ref.shape[axis] for axis in order)
    array = item.flat.reshape(shape).transpose(np.argsort(order)) if ref.ndim else item.flat.reshape(())
    with np.errstate(all="ignore"):
        error = np.abs(array - ref) / np.maximum(scale_of(ref), 1e-300)
    error = np.where((array == ref) | (np.isnan(array) & np.isnan(ref)), 0.0, error)
    return Hit(item.label, array, float(np.max(np.nan_to_num(error, nan=np.inf))), alike)


def _plain(array: Array) -> Array:
    given = canonical(array)
    return given if given.dtype == np.float64 else given.astype(np.float64)


def _flat(array: Array) -> Array:
    return np.ravel(_plain(array))


def _sums(flat: Array) -> tuple[float, float]:
    finite = np.where(np.isfinite(flat), flat, 0.0)
    return float(finite.sum()), float(np.abs(finite).sum())


def _agrees(left: Array, right: Array, allowed: Array) -> bool:
    with np.errstate(all="ignore"):
        same = (np.abs(left - right) <= allowed) | (left == right) | (np.isnan(left) & np.isnan(right))
    return bool(same.all())
