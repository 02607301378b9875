"""How each array of the original's trace stands in the converted model's: it agrees, is wrong, or is absent. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isomorph.parity.compare import canonical
from isomorph.parity.explaining.fault import alike
from isomorph.parity.explaining.shelf import LIKE, Hit, Shelf, arranged, placements
from isomorph.parity.runners.base import ModuleTrace
from isomorph.parity.tolerance import Array, rms

__all__ = ["Standing", "counterparts", "is_operation"]

Allowed = Callable[[int, bool], Array]


def is_operation(call: ModuleTrace) -> bool:
    """Whether a call of a trace is no module's."""
    return bool(getattr(call, "function", False))


def counterparts(here: Sequence[ModuleTrace], there: Sequence[ModuleTrace]) -> dict[int, int]:
    """Module call of the original's trace -> call in the other one that has its path, where the converted model keeps
    the original's module paths. The number of the call in the run is respected."""
    known: dict[tuple[str, int], int] = {}
    for index, call in enumerate(there):
        if not is_operation(call):
            path = re.sub(r"(^|\.)part_\d+(?=\.|$)", "", call.path).lstrip(".")  # long levels are emitted in parts
            if path or index == len(there) - 1:
                known.setdefault((path, call.call), index)
    found = {}
    for index, call in enumerate(here):
        if not is_operation(call) and (call.path, call.call) in known:
            found[index] = known[call.path, call.call]
    return found


@dataclass
class Standing:
    """What is known of the nodes of a flow.

    arrays: node -> its value (or gradient) in the original. shelf: the converted model's. allowed: node and whether the
    original's conditioning is to be measured -> tolerance. named: node -> the arrays of its counterpart by path, one of
    which stands in its place. surely: nodes that have a counterpart by definition and differ (outputs of the model).
    """

    arrays: Mapping[int, Array]
    shelf: Shelf
    allowed: Allowed
    named: Mapping[int, Sequence[Array]]
    surely: Mapping[int, Array]

    def __post_init__(self) -> None:
        self._hits: dict[int, Hit | None] = {}
        self._wrong: dict[int, Array | None] = {}
        self.labels: dict[int, int] = {}  # of what stands in the place of a wrong node, where it was found by value
        self._likely: dict[int, Hit | None] = {}
        self._taken: frozenset[int] | None = None

    def hit(self, number: int) -> Hit | None:
        """Where a node is found by value."""
        if number not in self._hits:
            array = self.arrays[number]
            hit = self.shelf.find(array, self.allowed(number, False))
            if hit is None and array.dtype.kind in "fc":
                hit = self.shelf.find(array, self.allowed(number, True))
            self._hits[number] = hit
        return self._hits[number]

    def agrees(self, number: int) -> bool:
        """Whether a node is found, or has nothing to be compared."""
        if number in self.surely:
            return False
        array = self.arrays.get(number)
        if array is None or not array.size or not np.any(array):
            return True
        return self.hit(number) is not None

    def wrong(self, number: int) -> Array | None:
        """What stands in the place of a node that does not agree, in the node's axis order; None where it is absent."""
        if number not in self._wrong:
            self._wrong[number] = self._in_place_of(number)
        return self._wrong[number]

    def _in_place_of(self, number: int) -> Array | None:
        array = self.arrays[number]
        if number in self.surely:
            return self.surely[number]
        fitting = [p for other in self.named.get(number, ()) if (p := arranged(other, array)) is not None]
        if fitting:
            return min(fitting, key=lambda other: rms(np.nan_to_num(canonical(other) - canonical(array))))
        if array.size < 3 or array.dtype.kind not in "fc":
            return None
        hit = self._nearest(number)
        if hit is None:
            return None
        for other, value in self.arrays.items():  # one array stands in the place of the node that it is nearest to
            if value.size == array.size and value.dtype.kind in "fc" and other not in self.named:
                rival = self._nearest(other) if not self.agrees(other) and other not in self.surely else None
                if rival is not None and rival.label == hit.label and rival.error < 0.5 * hit.error:
                    return None
        self.labels[number] = hit.label
        return hit.array

    def _nearest(self, number: int) -> Hit | None:
        """What is like a node and belongs to none that agrees."""
        if number not in self._likely:
            array = self.arrays[number]
            hit = self.shelf.rearranged(array, self.taken) or self.shelf.nearest(array, self.taken)
            self._likely[number] = hit if hit is not None and hit.likeness > LIKE else None
        return self._likely[number]

    def displace(self, number: int, array: Array) -> None:
        """A node that agrees with something is not what stands in its place: `array` is."""
        self.surely = {**self.surely, number: array}
        self._wrong.pop(number, None)

    def others(self, array: Array, most: int) -> Iterator[Array]:
        """Arrays that fit the place of this one and belong to no node that agrees; the last computed first."""
        for flat in itertools.islice(self.shelf.sized(array.size, self.taken), most):
            yield from (candidate.astype(array.dtype) for candidate in placements(flat, array))

    def is_expected(self, array: Array) -> bool:
        """Whether a value is one of the original's own."""
        return any(
            other.size == array.size and alike(np.ravel(canonical(other)), np.ravel(canonical(array)), 1e-9)
            for other in self.arrays.values()
        )

    @property
    def taken(self) -> frozenset[int]:
        """Labels of the shelf that agree with a node, so that they do not stand in another's place."""
        if self._taken is None:
            hits = (self.hit(number) for number in self.arrays if number not in self.surely)
            self._taken = frozenset().union(*(self.shelf.same(hit) for hit in hits if hit is not None))
        return self._taken

    # ---------------------------------------------------------------------------------------------------------- walking
    def origins(self, start: Iterable[int], behind: Mapping[int, Sequence[int]]) -> list[tuple[int, list[int]]]:
        """Wrong nodes with no wrong node behind them, up to those that agree: (node, the absent ones between them).

        start: nodes that differ. behind: node -> those it is made from. Where nothing but absent nodes is left, the
        absent ones next to those that agree.
        """
        reached = self._reached(start, behind)
        found = []
        for number in sorted(reached):
            if self.wrong(number) is not None:
                between, clean = self._behind(number, behind, reached)
                if clean:
                    found.append((number, between))
        if not found:
            edge = [n for n in sorted(reached) if not any(b in reached for b in behind.get(n, ()))]
            found = [(number, []) for number in edge]
        return found

    def _reached(self, start: Iterable[int], behind: Mapping[int, Sequence[int]]) -> set[int]:
        reached: set[int] = set()
        stack = [number for number in start if not self.agrees(number)]
        while stack:
            number = stack.pop()
            if number not in reached:
                reached.add(number)
                stack += [b for b in behind.get(number, ()) if b in self.arrays and not self.agrees(b)]
        return reached

    def _behind(self, number: int, behind: Mapping[int, Sequence[int]], reached: set[int]) -> tuple[list[int], bool]:
        """The absent nodes directly behind a wrong one, and whether no wrong one is behind those."""
        absent: set[int] = set()
        stack = [b for b in behind.get(number, ()) if b in reached]
        while stack:
            other = stack.pop()
            if other in absent:
                continue
            if self.wrong(other) is not None:
                return [], False
            absent.add(other)
            stack += [b for b in behind.get(other, ()) if b in reached]
        return sorted(absent), True
