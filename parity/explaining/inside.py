"""Both models seen from inside on one example: traces, what differs in their results, and how near each array is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import canonical, compare_precision, compare_structure
from isomorph.parity.explaining.fault import UNEXPLAINED, alike, distance
from isomorph.parity.explaining.flow import Flow
from isomorph.parity.explaining.shelf import Shelf, arranged, laid_out
from isomorph.parity.explaining.standing import Standing, counterparts, is_operation
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import ModuleTrace, Perturbation, Request, Response, Runner
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import ModuleError

__all__ = ["Inside", "look_inside"]

TRIED = 500  # runs of the original with the output of a module replaced
FOLDED = 8.0 * 2.0**-23
PLACES = 1 << 16  # arrays of one call
LISTED = 200  # modules whose errors a verdict lists
SHOWS = {"float64": 1e-9, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}  # relative to scale: the same value
NOTHING = "the converted model shows nothing of its inside: only its results were compared"


def look_inside(pair: Pair, example: Example, exact: bool) -> Inside:
    """Trace both models. exact: in float64. Raises what the models raise."""
    reference = pair.original64 or pair.original
    converted = (pair.converted64 if exact else None) or pair.converted
    return Inside(reference, pair.original, converted, example, exact)


class Inside:
    """The two runs of an example. In the model's own dtype (not `exact`) the original's float64 run is the reference
    all the same, and the original's own error the measure."""

    def __init__(self, reference: Runner, own: Runner, converted: Runner, example: Example, exact: bool) -> None:
        from isomorph.parity.explaining.causes import lives_of

        self._reference, self._own, self._converted = reference, own, converted
        self._example, self._exact = example, exact
        self.request: Request = example.request
        self.mode = example.request.mode
        self.flow = Flow(reference.trace(self.request))
        self._lives = lives_of(reference)
        self.there: Sequence[ModuleTrace] = converted.trace(self.request)
        self.note = "" if self.there else NOTHING
        self.expected: Response = example.reference if exact else example.response
        self.got: Response = converted.respond(self.request)
        self._places = counterparts(self.flow.calls, self.there)
        self._leaks = self._rounds_inside()
        self._tried = 0

    def _rounds_inside(self) -> float:
        """The error, relative to scale, that is not what is looked for: someone else's model may have constants that
        were computed in float32 (a normalisation folded into a convolution). 0 where the difference is no larger."""
        if not self._exact or _inner(self._converted).about().mapped:
            return 0.0
        largest = max((distance(*pair) for pair in self._bad("output").values()), default=0.0)
        return FOLDED if largest > 10.0 * FOLDED else 0.0

    # --------------------------------------------------------------------------------------------- what the results say
    def _differs(self, quantity: str, name: str, expected: Array, got: Array, floor: float = 0.0) -> bool:
        slope = self._example.slope(quantity, name)
        if slope is not None and slope.shape != canonical(expected).shape:
            slope = None
        if self._exact:
            return not compare_structure(expected, got, slope, floor).agrees
        reference = self._example.reference.groups()[quantity].get(name, expected)
        return not compare_precision(reference, expected, got, self._example.own_dtype, slope=slope, floor=floor).agrees

    def _bad(self, quantity: str) -> dict[str, tuple[Array, Array]]:
        there = self.got.groups()[quantity]
        here = self.expected.groups()[quantity]
        largest = max((yardstick.rms(canonical(a)) for a in here.values() if a.dtype.kind == "f"), default=0.0)
        floor = yardstick.FLOOR * largest if quantity != "output" else 0.0
        return {
            name: (array, there[name])
            for name, array in here.items()
            if name in there and self._differs(quantity, name, array, there[name], floor)
        }

    def bad_outputs(self) -> dict[int, Array]:
        """Node of the original's output -> what the converted model has there."""
        bad = self._bad("output")
        nodes: dict[int, Array] = {}
        for name, (_, got) in bad.items():
            reference = self._example.reference.outputs[int(name)]
            for number in self.flow.outputs(self.flow.root):
                value = self.flow.value(number)
                if (
                    number not in nodes
                    and value.shape == reference.shape
                    and np.array_equal(value, reference, equal_nan=value.dtype.kind == "f")
                ):
                    placed = got if got.shape == value.shape else arranged(got, value)
                    nodes[number] = np.full(value.shape, np.nan) if placed is None else placed
                    break
        return nodes

    def swapped_outputs(self, number: int) -> tuple[str, ...]:
        """That a wrong output of the model is another one of the converted model's, or has another shape, if so."""
        if number not in self.flow.outputs(self.flow.root):
            return ()
        value = self.flow.value(number)
        expected, got = self._example.reference.outputs, self.got.outputs
        places = range(min(len(expected), len(got)))
        own = next((p for p in places if expected[p].shape == value.shape and np.array_equal(value, expected[p])), -1)
        for place in places:
            if place != own and alike(value, got[place], self.unit):
                return (f"the outputs are in another order: this one is output {place} of the converted model",)
        if own >= 0 and got[own].shape != value.shape:
            return (f"shape {list(got[own].shape)} in place of {list(value.shape)}",)
        return ()

    def bad_buffers(self) -> dict[str, tuple[Array, Array, Array]]:
        """Buffer -> before the run, after it, and after it in the converted model."""
        before = self._reference.state()
        return {name: (before[name], *pair) for name, pair in self._bad("buffer").items() if name in before}

    def bad_gradients(self) -> tuple[dict[int, Array], dict[str, tuple[Array, Array]]]:
        """By node of an input, and by parameter."""
        if not self.request.backward:
            return {}, {}
        bad = self._bad("input gradient")
        nodes: dict[int, Array] = {}
        for name, array in self._example.reference.input_gradients.items():
            if name not in bad:
                continue
            for number in self.flow.inputs(self.flow.root):
                gradient = self.flow.gradient(number)
                if number not in nodes and gradient is not None and alike(gradient, array):
                    nodes[number] = bad[name][1]
                    break
        return nodes, self._bad("parameter gradient")

    # ---------------------------------------------------------------------------------------------------- how it stands
    def values(self, surely: Mapping[int, Array]) -> Standing:
        """Of the arrays. surely: see `Standing`."""
        arrays = {number: self.flow.value(number) for number in self.flow.nodes}
        shelf = Shelf()
        for index, call in enumerate(self.there):
            for place, array in enumerate((*call.outputs, *call.inputs)):
                shelf.add(index * PLACES + place, array)
        named: dict[int, Sequence[Array]] = {}
        for index, place in self._places.items():
            named.update(dict.fromkeys(self.flow.outputs(index), self.there[place].outputs))
        return Standing(arrays, shelf, self._allowed(arrays, lambda flow, n: flow.value(n), 0.0), named, surely)

    def gradients(self) -> Standing:
        """Of the gradients of the arrays."""
        arrays = {n: g for n in self.flow.nodes if (g := self.flow.gradient(n)) is not None}
        shelf = Shelf()
        for index, call in enumerate(self.there):
            for place, gradient in enumerate((*call.output_gradients, *call.input_gradients)):
                if gradient is not None:
                    shelf.add(index * PLACES + place, gradient)
        named = self._gradients_by_value(arrays)
        floor = yardstick.FLOOR * max((yardstick.rms(a) for a in arrays.values()), default=0.0)
        return Standing(arrays, shelf, self._allowed(arrays, lambda flow, n: flow.gradient(n), floor), named, {})

    def _gradients_by_value(self, arrays: Mapping[int, Array]) -> dict[int, Sequence[Array]]:
        """Node -> the gradients of the converted model's arrays that have its value, or of its counterpart by path;
        zeros where there is no gradient."""
        values = self.values({})
        named: dict[int, Sequence[Array]] = {}
        for number, gradient in arrays.items():
            node, hit = self.flow.nodes[number], values.hit(number)
            found: list[Array | None] = []
            if node.call in self._places:
                call = self.there[self._places[node.call]]
                found = list(call.output_gradients if node.output else call.input_gradients)
            elif hit is not None:
                found = [self._gradient(label) for label in values.shelf.same(hit)]
            if found:
                known = [g for g in found if g is not None and g.size == gradient.size]
                named[number] = known or [np.zeros(gradient.shape)]
        return named

    def _gradient(self, label: int) -> Array | None:
        """The gradient of an array that has a label on the shelf of values."""
        call, place = self.there[label // PLACES], label % PLACES
        count = len(call.outputs)
        found: tuple[Array | None, ...] = (
            call.output_gradients[place:] if place < count else call.input_gradients[place - count :]
        )
        return found[0] if found else None

    def _allowed(
        self, arrays: Mapping[int, Array], read: Callable[[Flow, int], Array | None], floor: float
    ) -> Callable[[int, bool], Array]:
        def moved(number: int, flows: Sequence[Flow]) -> list[Array]:
            shape = canonical(arrays[number]).shape
            found = [read(flow, number) for flow in flows if number in flow.nodes]
            return [a for array in found if array is not None and (a := canonical(array)).shape == shape]

        def allowed(number: int, measured: bool) -> Array:
            base = canonical(arrays[number])
            if base.dtype.kind != "f":
                return np.full(base.shape, 1e-9)
            slope = yardstick.condition(base, moved(number, self._moved)) if measured else None
            if self._exact:
                return yardstick.structure_tolerance(base, slope, max(floor, self._leaks * yardstick.rms(base)))
            own = moved(number, [self._own_flow])
            errors = [yardstick.movement(base, array) for array in own]
            return yardstick.precision_tolerance(base, errors, self._example.own_dtype, slope) + floor

        return allowed

    @cached_property
    def _moved(self) -> list[Flow]:
        """The original's runs with inputs and parameters perturbed; for conditioning."""
        deltas = [Perturbation(yardstick.DELTA, seed) for seed in range(yardstick.DRAWS)]
        return [Flow(self._reference.trace(replace(self.request, perturbation=delta))) for delta in deltas]

    @cached_property
    def _own_flow(self) -> Flow:
        return Flow(self._own.trace(self.request))

    @property
    def unit(self) -> float:
        """The difference, relative to scale, up to which two values of these runs are one."""
        return max(SHOWS["float64" if self._exact else self._example.own_dtype], self._leaks)

    def shows(self, standing: Standing, array: Array) -> bool:
        """Whether the converted model's trace has this value, up to a little more than rounding, where the original has
        nothing like it."""
        base = canonical(array)
        allowed = self.unit * np.maximum(yardstick.scale_of(base), 1e-30)
        return standing.shelf.find(base, allowed, standing.taken) is not None

    def gives(self, index: int, array: Array) -> bool:
        """Whether the original, with this as the output of one of its calls, gives what the converted model gives."""
        from isomorph.parity.explaining.causes import outcome_with

        call = self.flow.calls[index]
        self._tried += 1
        if self._tried > TRIED or array.shape != call.outputs[0].shape:
            return False
        outputs = outcome_with(self._reference, self.request, call.path, call.call, array)
        pairs = list(zip(self.got.outputs, outputs or (), strict=False))
        if not pairs:
            return False
        apart = max(distance(e, g) for e, g in zip(self.expected.outputs, self.got.outputs, strict=False))
        return all(
            distance(g, o) <= max(self.unit, UNEXPLAINED * apart) and distance(g, o) < 0.1 * apart for g, o in pairs
        )

    # ------------------------------------------------------------------------------------------------------ for a place
    def live(self, index: int) -> Any:
        """What makes a call again in this process, None where the original lives in another."""
        return self._lives[index] if self._lives is not None and index < len(self._lives) else None

    def call_of(self, path: str) -> int | None:
        """The first call of a module."""
        return next((i for i, c in enumerate(self.flow.calls) if c.path == path and not c.function), None)

    def counterpart(self, index: int, number: int, standing: Standing) -> str:
        """The name of what stands for a module in the converted model: by path, else where it has something like it."""
        if index in self._places:
            return self.there[self._places[index]].path
        standing.wrong(number)
        if number not in standing.labels:
            return ""
        call = self.there[standing.labels[number] // PLACES]
        return f"{call.path} ({call.kind})".strip() if is_operation(call) else call.path

    def errors(self, standing: Standing) -> tuple[ModuleError, ...]:
        """Accumulated and local errors of the module calls, in order of execution."""
        found: list[ModuleError] = []
        for index, call in enumerate(self.flow.calls):
            if call.function or len(found) >= LISTED:
                continue
            accumulated, tolerance = self._accumulated(index, standing)
            place = self._places.get(index)
            if place is not None or accumulated is not None:
                found.append(ModuleError(
                    call.path, call.kind, call.call, self.there[place].path if place is not None else "",
                    self._local(index), accumulated, tolerance,
                ))  # fmt: skip
        return tuple(found)

    def _accumulated(self, index: int, standing: Standing) -> tuple[float | None, float]:
        errors, tolerances = [], [0.0]
        for number in self.flow.outputs(index):
            array = standing.arrays.get(number)
            if array is None or not array.size or array.dtype.kind not in "fc":
                continue
            hit = standing.hit(number) if standing.agrees(number) and np.any(array) else None
            got = hit.array if hit is not None else None if standing.agrees(number) else standing.wrong(number)
            if got is not None:
                errors.append(distance(array, got))
                allowed = standing.allowed(number, False) / np.maximum(yardstick.scale_of(canonical(array)), 1e-300)
                tolerances.append(float(np.max(allowed)))
        return (max(errors) if errors else None), max(tolerances)

    def _local(self, index: int) -> float | None:
        """The error of the counterpart, called alone on the original's inputs."""
        place, alone = self._places.get(index), getattr(_inner(self._converted), "call_alone", None)
        if place is None or alone is None:
            return None
        call, other = self.flow.calls[index], self.there[place]
        left = list(call.inputs)
        given = []
        for array in other.inputs:
            fitting = [a for a in left if a.size == array.size]
            placed = laid_out(fitting[0], array) if fitting else None
            if placed is not None:
                left = [a for a in left if a is not fitting[0]]
            given.append(array if placed is None else placed.astype(array.dtype))
        outputs = alone(place, tuple(given))
        if outputs is None:
            return None
        shelf = Shelf()
        for array in outputs:
            shelf.add(0, array)
        hits = [shelf.nearest(a) for a in call.outputs if a.dtype.kind in "fc" and a.size]
        errors = [hit.error for hit in hits if hit is not None]
        return max(errors) if errors else None


def _inner(runner: Any) -> Any:
    """The runner that others answer for under other names."""
    while hasattr(runner, "runner"):
        runner = runner.runner
    return runner
