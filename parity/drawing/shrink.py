"""A counterexample's values made simple: as few as possible that are not at rest, and those short numbers. numpy only.

At rest a float is 0 (or the nearest to it in its declared range), an integer its lowest value, a mask the example's.
Whole arrays are put to rest first, then halves, quarters and so on down to single elements (delta debugging), so that
one element among 10^5 is found in some 35 runs; then what is left is rounded. Only what was seen to fail is kept, so
nothing is assumed of the predicate: not that fewer elements fail less, nor that nearby values fail alike.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from isomorph.parity.drawing.strategies import InputSpec, is_mask, round_to
from isomorph.parity.tolerance import Array

__all__ = ["shrink_arrays"]

Arrays = tuple[Array, ...]
DENSE = 16  # chunks of which not one could be put to rest, twice: most elements matter
DISTINCT = 24  # so many values are simplified one by one


def shrink_arrays(
    arrays: Arrays,
    fails: Callable[[Arrays], bool],
    runs: int,
    specs: Sequence[InputSpec] | None = None,
    deadline: float | None = None,
) -> tuple[Arrays, int]:
    """Simpler arrays of the same shapes and dtypes that still fail, and how many runs were used.

    arrays: they fail. fails: called at most `runs` times; its exceptions pass through. specs: of each array: where it
    is at rest, its bounds, the dtype its floats are rounded to, and whether it is kept. deadline: of
    `time.monotonic()`; no run is begun after it. Deterministic. 1-minimal if the runs suffice and no more than a few
    dozen elements matter: no single element can be put to rest, no value be made simpler.
    """
    search = _Search(list(arrays), fails, runs, [_Kind.of(a, s) for a, s in _with_specs(arrays, specs)], deadline)
    search.rest_wholes()
    while search.left():
        before = list(search.arrays)
        search.rest_parts()
        search.simplify_together()
        search.simplify_each()
        if all(map(_same, before, search.arrays)):
            break
    return tuple(search.arrays), search.spent


def _with_specs(arrays: Arrays, specs: Sequence[InputSpec] | None) -> Iterator[tuple[Array, InputSpec | None]]:
    return zip(arrays, specs if specs is not None else [None] * len(arrays), strict=True)


@dataclass(frozen=True)
class _Kind:
    """What one array may hold. rest: where it is at rest, of its shape. dtype: what floats are rounded to."""

    rest: Array
    dtype: str
    low: float
    high: float
    kept: bool

    @staticmethod
    def of(array: Array, spec: InputSpec | None) -> _Kind:
        kind = array.dtype.kind
        dtype = str(array.dtype) if spec is None else spec.dtype
        low = -math.inf if spec is None or spec.low is None else spec.low
        high = math.inf if spec is None or spec.high is None else spec.high
        if kind in "iu" and (spec is None or spec.low is None):
            low = 0 if spec is not None else min(0, int(array.min(initial=0)))
        rest: Array = np.full(array.shape, min(max(0, low), high) if kind != "b" else False, array.dtype)
        if spec is not None and is_mask(spec):
            whole = spec.example is not None and spec.example.shape == array.shape
            rest = np.array(spec.example if whole else np.full(array.shape, spec.lead != 0), array.dtype)
        kept = (spec is not None and spec.kept) or kind not in "fiub"
        return _Kind(rest, dtype, low, high, kept)

    def fit(self, values: Array) -> Array:
        """Float values in bounds and rounded to the dtype."""
        return round_to(np.clip(values, self.low, self.high), self.dtype).astype(self.rest.dtype)


@dataclass
class _Search:
    """The simplest arrays so far, and the runs they cost."""

    arrays: list[Array]
    predicate: Callable[[Arrays], bool]
    runs: int
    kinds: list[_Kind]
    deadline: float | None = None
    spent: int = 0
    tried: set[bytes] = field(default_factory=set)

    def left(self) -> bool:
        return self.spent < self.runs and (self.deadline is None or time.monotonic() < self.deadline)

    def keeps(self, changed: dict[int, Array]) -> bool:
        """Take the changed arrays if they still fail."""
        new = tuple(changed.get(index, array) for index, array in enumerate(self.arrays))
        mark = _digest(new)
        if mark in self.tried or not self.left() or all(_same(a, b) for a, b in zip(new, self.arrays, strict=True)):
            return False
        self.tried.add(mark)
        self.spent += 1
        if not self.predicate(new):
            return False
        self.arrays = list(new)
        return True

    def free(self) -> list[int]:
        return [index for index, kind in enumerate(self.kinds) if not kind.kept]

    def awake(self) -> Array:
        """What is not at rest: positions in all arrays laid end to end."""
        found = [np.zeros(0, np.int64)]
        for index, start in enumerate(self.starts()):
            if not self.kinds[index].kept:
                found.append(start + np.flatnonzero(_differs(self.arrays[index], self.kinds[index].rest)))
        return np.concatenate(found)

    def starts(self) -> list[int]:
        """Where each array begins when they are laid end to end."""
        return [0, *np.cumsum([array.size for array in self.arrays]).tolist()][:-1]

    def rest_wholes(self) -> None:
        """All arrays, then each, at rest; floats all ones."""
        if self.keeps({index: self.kinds[index].rest for index in self.free()}):
            return
        for index in self.free():
            kind = self.kinds[index]
            if not self.keeps({index: kind.rest}) and self.arrays[index].dtype.kind == "f":
                self.keeps({index: kind.fit(np.ones(kind.rest.shape))})

    def rest_parts(self) -> None:
        """Delta debugging: halves of what is awake, quarters, and so on down to single elements."""
        places = self.awake()
        size, failures = (len(places) + 1) // 2, 0
        while size and self.left() and failures < 2:
            found = False
            for start in range(0, len(places), size):
                found |= self.rest_at(places[start : start + size])
            failures = 0 if found else failures + (len(places) > DENSE * size)
            places = self.awake()
            if size > 1 or not found:
                size //= 2  # single elements again, as long as one could be put to rest

    def rest_at(self, places: Array) -> bool:
        changed: dict[int, Array] = {}
        for index, start in enumerate(self.starts()):
            own = places[(places >= start) & (places < start + self.arrays[index].size)] - start
            if own.size:
                changed[index] = np.array(self.arrays[index])
                changed[index].reshape(-1)[own] = self.kinds[index].rest.reshape(-1)[own]
        return bool(changed) and self.keeps(changed)

    def simplify_together(self) -> None:
        """All floats of an array rounded at once: to ones, integers, halves, or few digits."""
        for index in self.free():
            array, kind = self.arrays[index], self.kinds[index]
            if array.dtype.kind != "f" or not _differs(array, kind.rest).any():
                continue
            for rounded in (
                np.sign(array),
                np.rint(array),
                np.rint(2 * array) / 2,
                _digits(array, 1),
                _digits(array, 2),
            ):
                finite = kind.fit(np.where(np.isfinite(array), rounded, 0.0))
                held = np.where(np.isfinite(array) & _differs(array, kind.rest), finite, array)
                if _cost(held) < _cost(array) and self.keeps({index: held.astype(array.dtype)}):
                    break

    def simplify_each(self) -> None:
        """Each value that is left, wherever it stands: equal elements stay equal. Then each element."""
        for index in self.free():
            array, rest = self.arrays[index], self.kinds[index].rest
            if array.dtype.kind not in "fiu":
                continue
            places = np.flatnonzero(_differs(array, rest))
            flat = array.reshape(-1)[places]
            values = list(dict.fromkeys(flat[:10_000].tolist()))
            if len(values) <= DISTINCT:
                for value in values:
                    self.simplify(index, places[flat == value])
            if places.size <= DISTINCT:
                for place in places:
                    self.simplify(index, np.array([place]))

    def simplify(self, index: int, members: Array) -> None:
        """One value, that of some elements of an array: the first simpler one that fails, then smaller integers."""
        if not members.size:
            return  # NaN, which equals nothing
        value = self.arrays[index].reshape(-1)[members[0]].item()
        if not math.isfinite(value):
            return
        rest = self.kinds[index].rest.reshape(-1)[members[0]].item()
        for candidate in _simpler(value):
            if _weight(candidate) < _weight(value) and self.put(index, members, candidate):
                value = candidate
                break
        if value != int(value):
            return
        low, high = int(rest), int(value)
        while abs(high - low) > 1 and self.left():
            middle = (low + high) // 2 if high > low else -((-low - high) // 2)
            if self.put(index, members, middle):
                high = middle
            else:
                low = middle

    def put(self, index: int, members: Array, value: float) -> bool:
        kind = self.kinds[index]
        array = np.array(self.arrays[index])
        if not kind.low <= value <= kind.high or (array.dtype.kind != "f" and value != int(value)):
            return False
        array.reshape(-1)[members] = kind.fit(np.asarray(value, np.float64)) if array.dtype.kind == "f" else value
        return self.keeps({index: array})


def _simpler(value: float) -> Iterator[float]:
    """Numbers like a value, the simplest first."""
    sign = math.copysign(1.0, value)
    whole = math.trunc(value)
    yield from (1.0, 2.0, sign, 2 * sign, 0.5, sign / 2, abs(value))
    yield from (whole, whole + int(sign), math.trunc(2 * value) / 2, (math.trunc(2 * value) + sign) / 2)
    for digits in (1, 2, 3):
        yield float(f"{value:.{digits - 1}e}")


def _weight(value: float) -> tuple[bool, int, float, bool]:
    """What makes a number simple: integer, short, small, positive."""
    return (
        value != int(value),
        len(f"{value:g}" if float(f"{value:g}") == value else repr(value)),
        abs(value),
        value < 0,
    )


def _digits(array: Array, digits: int) -> Array:
    finite = np.where(np.isfinite(array) & (array != 0), array, 1.0).astype(np.float64)
    unit = 10.0 ** (np.floor(np.log10(np.abs(finite))) - digits + 1)
    return np.where(np.isfinite(array) & (array != 0), np.rint(finite / unit) * unit, array)


def _cost(array: Array) -> int:
    """How long an array is to write down."""
    flat = np.unique(array[np.isfinite(array)])
    return sum(len(f"{value:.6g}") for value in flat[:1000]) + 8 * max(0, flat.size - 1000)


def _differs(array: Array, rest: Array) -> Array:
    differs = array != rest
    if array.dtype.kind == "f":
        differs |= np.signbit(array) != np.signbit(rest)  # -0 is not at rest
    return np.asarray(differs)


def _same(left: Array, right: Array) -> bool:
    return left is right or left.tobytes() == right.tobytes()


def _digest(arrays: Arrays) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(array.tobytes())
    return found.digest()
