"""What each module does to the error: the converted model's against float64, beside the original's own. numpy only.

Both models are traced on one example in their own dtype, and in float64 where they have it, since there what is not the
same value differs by far more than rounding. What stands for a module is what has its path, where that has its value
too (a layer of Keras may hold the activation that is a module of its own in torch), else whatever has its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import canonical
from isomorph.parity.drawing import strategies
from isomorph.parity.evidence import owner_of
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
SAME = (1e-9, 1e-7)  # in float64, relative to scale: one value, the nearer first; float32 constants make the second
ULPS = (16.0, 256.0)  # likewise where one of the models has no float64
SAME_PATH = 1e-6  # likewise of what has the same path
SAME_GRADIENT = 1e-5  # likewise of gradients, which rounding moves further
OWN = 64.0  # times the original's own error, where one of the models has no float64
LIKE = 0.9  # correlation from which an array of a model that failed stands for another
WORK = 1e8  # element comparisons that the search for such arrays may cost altogether
OPAQUE = "the converted model shows nothing of its inside"

Trace = Sequence[ModuleTrace]
Key = tuple[int, int]  # call of the original's trace, output
Place = tuple[int, int]  # likewise of the converted model's


def profile_modules(pair: Pair, probe: Example | None, apart: bool) -> tuple[tuple[ModuleProfile, ...], str]:
    """(a profile per module of the original, in order of completion; what could not be had, "" if nothing).

    probe: an example that is known to be conclusive. apart: whether the models differ by more than rounding, or may
    (quantised): what has no counterpart by value is then compared with what is most like it. Raises what the models
    raise.
    """
    example = _example(pair, probe)
    if example is None:
        return (), "the original accepts no example"
    own = pair.original.trace(example.request)
    if not any(not is_operation(call) for call in own):
        return (), "the original shows nothing of its inside"
    with np.errstate(all="ignore"):
        found = _Profile(pair, example, own, apart)
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

    def __init__(self, pair: Pair, example: Example, own: Trace, apart: bool) -> None:
        self._pair, self._example, self._apart = pair, example, apart
        request = example.request
        self._measured = pair.original64 is not None and pair.own_dtype != "float64"
        self._own = {(call.path, call.call): call for call in own if not is_operation(call)}
        self._reference = own if pair.original64 is None else pair.original64.trace(request)
        self.there: Trace = pair.converted.trace(request)
        double = pair.converted64 if pair.original64 is not None else None
        self._wide = None if double is None or not self.there else double.trace(request)
        self._in_float64: dict[Place, Place] = {}
        self._places = self._matched() if self.there else {}
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
            for position in _judged(call):
                place = self._places.get((index, position))
                row.counterpart = row.counterpart or (self._name(place) if call.path else "")
                forward.add(*self._forward(call, own, position, place))
                gradient.add(*self._gradient(call, own, position, place))
        if "" in rows:
            rows[""][1].add(*self._results())
        owned: dict[str, list[str]] = {}
        for name in self._pair.original.parameters():
            owned.setdefault(owner_of("parameter", name), []).append(name)
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
        if place is not None and not self._apart and not self._is_gradient(expected, place):
            got = None
        mine = None if own is None else _at(own.output_gradients, position)
        return _error(expected, got), _error(expected, mine) if self._measured else None

    def _is_gradient(self, expected: Array, place: Place) -> bool:
        """Of models that are the same: whether a gradient is the same quantity. It is none where the array is read past
        the one that was recorded."""
        if self._wide is None or place not in self._in_float64:
            return True
        call, position = self._in_float64[place]
        error = _error(expected, _at(self._wide[call].output_gradients, position))
        return error is not None and error <= SAME_GRADIENT

    def _name(self, place: Place | None) -> str:
        if place is None:
            return ""
        call = self.there[place[0]]
        return f"{call.path} ({call.kind})".strip() if is_operation(call) else call.path

    # ---------------------------------------------------------------------------------------------------- counterparts
    def _matched(self) -> dict[Key, Place]:
        """What stands for each output of each module call."""
        wanted = {
            (index, position): call.outputs[position]
            for index, call in enumerate(self._reference)
            if not is_operation(call)
            for position in _judged(call)
        }
        trace = self.there if self._wide is None else self._wide
        label = dict(_labelled(trace, self.there))
        if self._wide is not None:
            self._in_float64 = {place: divmod(number, PLACES) for number, place in label.items()}
        array = {place: trace[n // PLACES].outputs[n % PLACES] for n, place in label.items()}
        named = dict(self._named(wanted))
        found = {key: at for key, at in named.items() if at in array and self._agrees(key, wanted[key], array[at])}
        shelf = Shelf()
        for number in sorted(label, key=lambda n: is_operation(trace[n // PLACES])):  # a layer rather than its ops
            shelf.add(number, array[label[number]])
        ulp = yardstick.ULP.get(self._pair.own_dtype, yardstick.ULP["float32"])
        units = tuple(factor * ulp for factor in ULPS) if self._wide is None else SAME
        for key, value in wanted.items():
            hit = None if key in found else _found(shelf, value, units)
            if hit is not None:
                found[key] = label[hit]
        if self._apart:
            found |= {key: place for key, place in named.items() if key not in found}
            taken = {number for number, place in label.items() if place in set(found.values())}
            likely = _likely(shelf, {key: a for key, a in wanted.items() if key not in found}, taken)
            found |= {key: label[number] for key, number in likely.items()}
        return found

    def _named(self, wanted: Mapping[Key, Array]) -> Iterator[tuple[Key, Place]]:
        """What is an output of the call with the same path; of several the nearest."""
        by_path = counterparts(self._reference, self.there)
        left = {place: list(enumerate(self.there[place].outputs)) for place in by_path.values()}
        for (index, position), expected in wanted.items():
            place = by_path.get(index)
            others = [] if place is None else left[place]
            fitting = [(error, at) for at, other in others if (error := _error(expected, other)) is not None]
            if place is not None and fitting:
                at = min(fitting)[1]
                left[place] = [item for item in others if item[0] != at]
                yield (index, position), (place, at)

    def _agrees(self, key: Key, expected: Array, got: Array) -> bool:
        error = _error(expected, got)
        if error is None or self._wide is not None:
            return error is not None and error <= SAME_PATH
        call = self._reference[key[0]]
        own = self._own.get((call.path, call.call))
        mine = None if own is None else _at(own.outputs, key[1])
        return error <= max(
            ULPS[-1] * yardstick.ULP.get(self._pair.own_dtype, 0.0), OWN * (_error(expected, mine) or 0.0)
        )


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


def _likely(shelf: Shelf, wanted: Mapping[Key, Array], taken: set[int]) -> dict[Key, int]:
    """What is most like an array, where nothing equals it and it is nearer to no other one: a layer that was fused into
    the next is like that one, too."""
    hits = {}
    for key, array in wanted.items():
        hit = shelf.nearest(array, frozenset(taken), WORK / len(wanted)) if array.size > 2 else None
        if hit is not None and hit.likeness > LIKE:
            hits[key] = hit
    nearest: dict[int, float] = {}
    for hit in hits.values():
        nearest[hit.label] = min(hit.error, nearest.get(hit.label, np.inf))
    return {key: hit.label for key, hit in hits.items() if hit.error <= nearest[hit.label] * (1 + SAME_PATH)}


def _at(arrays: Sequence[Array | None], position: int) -> Array | None:
    return arrays[position] if position < len(arrays) else None


def _judged(call: ModuleTrace) -> list[int]:
    """The outputs of a call that are floats, and not zero."""
    return [position for position, array in enumerate(call.outputs) if _is_judged(array)]


def _is_judged(array: Array) -> bool:
    return array.dtype.kind in "fc" and bool(array.size) and bool(np.any(array))


def _error(expected: Array, got: Array | None) -> float | None:
    """The largest difference over the scale, in the order of axes that fits best; None where they are not the same
    number of elements."""
    if got is None or got.size != expected.size:
        return None
    other = placed(got, expected)
    return None if other is None else distance(expected, other)
