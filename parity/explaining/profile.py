"""What each module does to the error: the converted model's against float64, beside the original's own. numpy only.

Both models are traced once in their own dtype on one example, the original once more in float64. A module's counterpart
is found by its path where the converted model keeps paths, else by the value of its output: in float64 where both have
it, since there what is not the same value differs by far more than rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import canonical
from isomorph.parity.drawing import strategies
from isomorph.parity.explaining.fault import distance
from isomorph.parity.explaining.shelf import Shelf, placed
from isomorph.parity.explaining.standing import counterparts, is_operation
from isomorph.parity.ledger import CONTINUOUS
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import ModuleTrace
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import ModuleProfile

__all__ = ["profile_modules"]

DRAWN = 3  # examples, of which the first that the original accepts is taken
PLACES = 1 << 16  # arrays of one call
SAME = 1e-9  # in float64, relative to scale: one value
ULPS = (16.0, 256.0)  # likewise where one of the models has no float64, the nearer first
LIKE = 0.9  # correlation from which an array of a model that failed stands for another
WORK = 1e8  # element comparisons that the search for such arrays may cost altogether
OPAQUE = "the converted model shows nothing of its inside"

Trace = Sequence[ModuleTrace]
Place = tuple[int, int]  # call of the converted model's trace, output


def profile_modules(pair: Pair, probe: Example | None, failed: bool) -> tuple[tuple[ModuleProfile, ...], str]:
    """(a profile per module of the original, in order of completion; what could not be had, "" if nothing).

    probe: an example that is known to be conclusive. failed: whether the models differ: what has no counterpart by
    value is then compared with what is most like it. Raises what the models raise.
    """
    example = _example(pair, probe)
    if example is None:
        return (), "the original accepts no example"
    own = pair.original.trace(example.request)
    if not any(not is_operation(call) for call in own):
        return (), "the original shows nothing of its inside"
    with np.errstate(all="ignore"):
        found = _Profile(pair, example, own, failed)
        return found.rows(), "" if found.there else OPAQUE


def _example(pair: Pair, probe: Example | None) -> Example | None:
    """One of normal values in eval mode, or else the probe."""
    if probe is not None and probe.request.mode == "eval" and probe.case.distribution in CONTINUOUS:
        return probe
    if all("eval" in side.about().modes for side in (pair.original, pair.converted)):
        for case in strategies.plan(pair.contract, DRAWN, pair.settings.seed, "eval", shapes=1):
            example = pair.example("eval", replace(case, distribution="normal"))
            if example is not None:
                return example
    return probe


@dataclass
class _Errors:
    """The largest so far, None before the first."""

    got: float | None = None
    own: float | None = None

    def add(self, got: float | None, own: float | None) -> None:
        self.got = got if self.got is None else self.got if got is None else max(self.got, got)
        self.own = own if self.own is None else self.own if own is None else max(self.own, own)


@dataclass
class _Row:
    kind: str
    counterpart: str = ""


class _Profile:
    """The traces of one example."""

    def __init__(self, pair: Pair, example: Example, own: Trace, failed: bool) -> None:
        self._pair, self._example, self._failed = pair, example, failed
        request = example.request
        self._measured = pair.original64 is not None and pair.own_dtype != "float64"
        self._own = {(call.path, call.call): call for call in own if not is_operation(call)}
        self._reference = own if pair.original64 is None else pair.original64.trace(request)
        self.there: Trace = pair.converted.trace(request)
        self._by_path = counterparts(self._reference, self.there)
        rest = [i for i, c in enumerate(self._reference) if i not in self._by_path and not is_operation(c)]
        self._places = self._by_value(rest) if self.there else {}
        largest = (yardstick.rms(canonical(g)) for c in self._reference for g in c.output_gradients if g is not None)
        self._floor = yardstick.FLOOR * max(largest, default=0.0)

    def rows(self) -> tuple[ModuleProfile, ...]:
        """One per path."""
        rows: dict[str, tuple[_Row, _Errors, _Errors]] = {}
        for index, call in enumerate(self._reference):
            if is_operation(call):
                continue
            row, forward, gradient = rows.setdefault(call.path, (_Row(call.kind), _Errors(), _Errors()))
            own = self._own.get((call.path, call.call))
            for position, place in self._pairs(index):
                row.counterpart = row.counterpart or self._name(place)
                forward.add(*self._forward(call, own, position, place))
                gradient.add(*self._gradient(call, own, position, place))
        if "" in rows:
            rows[""][1].add(*self._results())
        owned: dict[str, list[str]] = {}
        for name in self._pair.original.parameters():
            owned.setdefault(name.rpartition(".")[0], []).append(name)
        return tuple(
            ModuleProfile(path, row.kind, row.counterpart, forward.got, forward.own, gradient.got, gradient.own,
                          tuple(owned.get(path, ())))
            for path, (row, forward, gradient) in rows.items()
        )  # fmt: skip

    def _results(self) -> tuple[float | None, float | None]:
        """Of the model's own outputs, which every format shows."""
        example = self._example
        got = self._pair.converted.respond(example.request).outputs
        errors = _Errors()
        for expected, own, new in zip(example.reference.outputs, example.response.outputs, got, strict=False):
            if _is_judged(expected):
                errors.add(_error(expected, new), _error(expected, own) if self._measured else None)
        return errors.got, errors.own

    def _forward(
        self, call: ModuleTrace, own: ModuleTrace | None, position: int, place: Place | None
    ) -> tuple[float | None, float | None]:
        expected = call.outputs[position]
        got = None if place is None else self.there[place[0]].outputs[place[1]]
        mine = own.outputs[position] if own is not None and position < len(own.outputs) else None
        return _error(expected, got), _error(expected, mine) if self._measured else None

    def _gradient(
        self, call: ModuleTrace, own: ModuleTrace | None, position: int, place: Place | None
    ) -> tuple[float | None, float | None]:
        expected = _at(call.output_gradients, position)
        if expected is None or call.path == "" or yardstick.rms(canonical(expected)) <= self._floor:
            return None, None  # what arrives at the model's own outputs was given to both
        got = None if place is None else _at(self.there[place[0]].output_gradients, place[1])
        mine = None if own is None else _at(own.output_gradients, position)
        return _error(expected, got), _error(expected, mine) if self._measured else None

    def _name(self, place: Place | None) -> str:
        if place is None:
            return ""
        call = self.there[place[0]]
        return f"{call.path} ({call.kind})".strip() if is_operation(call) else call.path

    # ---------------------------------------------------------------------------------------------------- counterparts
    def _pairs(self, index: int) -> Iterator[tuple[int, Place | None]]:
        """Each output of a call of the original that can be judged, and the array that stands for it."""
        call, place = self._reference[index], self._by_path.get(index)
        others = [] if place is None else list(enumerate(self.there[place].outputs))
        for position, expected in enumerate(call.outputs):
            if not _is_judged(expected):
                continue
            fitting = [(error, at) for at, other in others if (error := _error(expected, other)) is not None]
            if place is not None and fitting:
                at = min(fitting)[1]
                others = [item for item in others if item[0] != at]
                yield position, (place, at)
            else:
                yield position, self._places.get((index, position))

    def _by_value(self, rest: Sequence[int]) -> dict[tuple[int, int], Place]:
        """(call of the original, output) -> what has its value."""
        wanted = {
            (index, position): array
            for index in rest
            for position, array in enumerate(self._reference[index].outputs)
            if _is_judged(array)
        }
        if not wanted:
            return {}
        double = self._pair.converted64 if self._pair.original64 is not None else None
        trace = self.there if double is None else double.trace(self._example.request)
        label = dict(_labelled(trace, self.there))
        shelf = Shelf()
        for number in sorted(label, key=lambda n: is_operation(trace[n // PLACES])):  # a layer rather than its ops
            shelf.add(number, trace[number // PLACES].outputs[number % PLACES])
        ulp = yardstick.ULP.get(self._pair.own_dtype, yardstick.ULP["float32"])
        units = (SAME,) if double is not None else tuple(factor * ulp for factor in ULPS)
        found: dict[tuple[int, int], int] = {}
        for key, array in wanted.items():
            hit = _found(shelf, array, units)
            if hit is not None:
                found[key] = hit
        if self._failed:
            found |= _likely(shelf, {key: a for key, a in wanted.items() if key not in found}, set(found.values()))
        return {key: label[number] for key, number in found.items()}


def _labelled(trace: Trace, there: Trace) -> Iterator[tuple[int, Place]]:
    """Every output of a trace, as a label, and the same output in another trace of the same model."""
    known = {(c.path, c.kind, c.call, is_operation(c)): index for index, c in enumerate(there)}
    for index, call in enumerate(trace):
        same = known.get((call.path, call.kind, call.call, is_operation(call)))
        if same is not None and len(there[same].outputs) == len(call.outputs):
            for position in range(len(call.outputs)):
                yield index * PLACES + position, (same, position)


def _found(shelf: Shelf, array: Array, units: Sequence[float]) -> int | None:
    base = canonical(array)
    scale = np.maximum(yardstick.scale_of(base), 1e-300)
    hits = (shelf.find(base, unit * scale) for unit in units)
    return next((hit.label for hit in hits if hit is not None), None)


def _likely(shelf: Shelf, wanted: dict[tuple[int, int], Array], taken: set[int]) -> dict[tuple[int, int], int]:
    """What is most like an array, where nothing equals it and it belongs to no other one."""
    found: dict[tuple[int, int], int] = {}
    for key, array in wanted.items():
        hit = shelf.nearest(array, frozenset(taken), WORK / len(wanted)) if array.size > 2 else None
        if hit is not None and hit.likeness > LIKE:
            found[key] = hit.label
            taken.add(hit.label)
    return found


def _at(arrays: Sequence[Array | None], position: int) -> Array | None:
    return arrays[position] if position < len(arrays) else None


def _is_judged(array: Array) -> bool:
    return array.dtype.kind in "fc" and bool(array.size) and bool(np.any(array))


def _error(expected: Array, got: Array | None) -> float | None:
    """The largest difference over the scale, in the order of axes that fits best; None where they are not the same
    number of elements."""
    if got is None or got.size != expected.size:
        return None
    other = placed(got, expected)
    return None if other is None else distance(expected, other)
