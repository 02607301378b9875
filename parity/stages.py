"""One example through the stages: the original's responses about it, measured only as far as they are needed.

Most honest examples agree within the smallest tolerance that could apply, so the conditioning (three more float64
runs), the neighbours (six) and the kink test are measured only where something differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import Finding, canonical, compare_precision, compare_signature, compare_structure
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Perturbation, Request, Responder, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["Example", "compare_at_precision", "compare_in_float64"]

Groups = dict[str, dict[str, Array]]
JITTER = 1e-3
LARGER = 4.0
JUMP_SHARE = 0.5  # of the difference, that a jump of the original by rounding must have
ROUNDING_SHARE = 0.01  # movement by rounding, relative to the difference, from which that is no evidence
WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
FLUSHED = frozenset({"output", "input gradient", "parameter gradient"})


class Example:
    """A case on the original: its own run, its float64 run, and what is measured around them on demand.

    Raises whatever the original raises.
    """

    def __init__(self, own: Runner, double: Runner, case: Case, request: Request, own_dtype: str) -> None:
        self.case, self.own_dtype = case, own_dtype
        self._own, self._double = own, double
        self.response = own.respond(request)  # first: it records the random draws, rounded to the model's own dtype
        self.request = replace(
            request,
            cotangents=self.response.cotangents,
            draws=self.response.draws if own.about().replays else None,
            structure=self.response.structure,
        )
        self.reference = double.respond(self.request)
        self.near: tuple[Example, Response] | None = None  # this example jittered, and the converted model there

    # What follows is measured when an array first asks for it: the runs once for all arrays, the arithmetic by array.
    @cached_property
    def _responses(self) -> list[Groups]:
        return [self._moved(yardstick.DELTA, seed) for seed in range(yardstick.DRAWS)]

    @cached_property
    def _fine_responses(self) -> list[Groups]:
        return [self._moved(yardstick.FINE_DELTA, seed) for seed in range(yardstick.DRAWS)]

    @cached_property
    def _coarse_responses(self) -> list[Groups]:
        delta = yardstick.COARSE * yardstick.ULP[self.own_dtype]
        return [self._moved(delta, 100 + seed) for seed in range(yardstick.DRAWS)]

    @cached_property
    def _neighbours(self) -> list[tuple[Groups, Groups]]:
        pairs = []
        for seed in range(yardstick.DRAWS):
            moved = _jittered(self.request.inputs, yardstick.ULP[self.own_dtype], seed, True)
            request = replace(self.request, inputs=moved)
            pairs.append((_floats(self._double.respond(request)), _floats(self._own.respond(request))))
        return pairs

    def _base(self, quantity: str, name: str) -> Array | None:
        array = self.reference.groups()[quantity].get(name)
        return None if array is None or array.dtype.kind not in "fc" else canonical(array)

    def slope(self, quantity: str, name: str) -> Array | None:
        """The original's conditioning of one array; None where it is no floating one."""
        base = self._base(quantity, name)
        if base is None:
            return None
        moved = _same(self._responses, quantity, name)
        fine = _same(self._fine_responses, quantity, name) if yardstick.is_steep(base, moved) else None
        return yardstick.condition(base, moved, fine)

    def coarse(self, quantity: str, name: str) -> Array | None:
        """The float64 response of one array to perturbations of a few ulps of the model's own dtype."""
        base = self._base(quantity, name)
        return None if base is None else yardstick.largest(base, _same(self._coarse_responses, quantity, name))

    def neighbours(self, quantity: str, name: str) -> list[Array]:
        """The original's own errors in one array at neighbouring inputs (one ulp of its dtype away)."""
        found = [
            (wide.get(quantity, {}).get(name), narrow.get(quantity, {}).get(name)) for wide, narrow in self._neighbours
        ]
        return [_movement(wide, narrow) for wide, narrow in found if wide is not None]

    @cached_property
    def restated(self) -> Response:
        """The original in float64 once more, with contiguous operands for its backward kernels, and the first of equal
        elements where torch promises none: the same mathematics."""
        return self._double.respond(replace(self.request, contiguous=True))

    def jittered(self) -> Example:
        """The same example a little away from ties and bounds."""
        request = replace(self.request, inputs=_jittered(self.request.inputs, JITTER, 7, False))
        return Example(self._own, self._double, self.case, request, self.own_dtype)

    @cached_property
    def rounded(self) -> list[Response]:
        """The original in float64 with its parameters alone changed by a rounding error, in both directions: a value
        that a rounding error takes over the edge of floor or argmax goes over it in one of the two.

        At an exact tie in the inputs this moves nothing; where a tie is itself a rounding error, or in chaos, it does.
        """
        deltas = [
            Perturbation(sign * yardstick.FINE_DELTA, 200 + seed, inputs=False)
            for seed in range(yardstick.DRAWS)
            for sign in (1, -1)
        ]
        return [self._double.respond(replace(self.request, perturbation=delta)) for delta in deltas]

    def moved_by_rounding(self, quantity: str, name: str) -> float:
        """The largest movement of an array in `rounded`."""
        base = canonical(self.reference.groups()[quantity][name]).astype(np.float64)
        largest = 0.0
        for response in self.rounded:
            other = response.groups()[quantity].get(name)
            if other is not None and base.size and canonical(other).shape == base.shape:
                largest = max(largest, float(np.max(yardstick.movement(base, canonical(other).astype(np.float64)))))
        return largest

    def jumps_by(self, quantity: str, name: str) -> float:
        """How far a rounding error inside the original moves an array of it, at most: more than a slope gives where a
        comparison, floor or argmax stands exactly on its edge."""
        base = self._base(quantity, name)
        moved = [] if base is None else _same(self._fine_responses, quantity, name)
        return max(
            (float(np.max(yardstick.movement(base, m))) for m in moved if base is not None and m.size), default=0
        )

    def depends_on_denormals(self) -> bool:
        """Whether the original's own NaN and infinities change when denormals are flushed to zero."""
        before = _floats(self.response)
        flushed = tuple(  # not every kernel of the processor's takes a denormal operand for zero when it is told to
            np.where(np.abs(a) < np.finfo(np.float32).tiny, np.copysign(0, a), a).astype(a.dtype)
            if a.dtype.kind == "f" else a
            for a in self.request.inputs
        )  # fmt: skip
        after = _floats(self._own.respond(replace(self.request, inputs=flushed, flush_denormals=True)))
        return any(
            not np.array_equal(np.isfinite(array), np.isfinite(after[quantity][name]))
            for quantity, name, array in _items(before)
            if quantity in FLUSHED
        )

    def far_from_overflow(self, quantity: str, name: str) -> bool:
        """Whether an array of the original stays finite where it is, for inputs several times as large: an infinity or
        NaN of the converted model there is then no matter of rounding."""
        larger = tuple(a * a.dtype.type(LARGER) if a.dtype.kind == "f" else a for a in self.request.inputs)
        try:
            with np.errstate(over="ignore"):
                after = self._own.respond(replace(self.request, inputs=larger)).groups()[quantity].get(name)
        except WorkerError:
            raise
        except Exception:  # the original refuses them: nothing is known
            return False
        before = canonical(self.response.groups()[quantity][name])
        return after is not None and bool(np.all(np.isfinite(canonical(after))[np.isfinite(before)]))

    def _moved(self, delta: float, seed: int) -> Groups:
        moved = Perturbation(delta, seed, inside=True)
        return _floats(self._double.respond(replace(self.request, perturbation=moved)))


LAYOUT = "the original's own answer depends on the memory layout of its operands, or on the order of equal elements"


@dataclass(frozen=True)
class _Pair:
    quantity: str
    name: str
    reference: Array
    got: Array
    floor: float


def compare_in_float64(
    example: Example, converted: Responder, ledger: Ledger, stage: str = "structure", retest: bool = True
) -> dict[tuple[str, str], str]:
    """Judge the converted model in float64: (quantity, name) -> outcome. Raises whatever the converted model raises.

    retest: whether to ask, of each difference, if it is a rounding error of the original or a kink.
    """
    got = converted.respond(example.request)
    mode, case = example.request.mode, example.case
    same = _same_structure(example.reference, got, ledger, mode, case)
    outcomes = {("signature", "outputs"): "equal" if same else "structure"}
    for pair in _pairs(example.reference, got):
        finding = _judge(example, pair, ledger.rounded)
        if retest and finding.outcome in ("value", "leak", "nonfinite", "integer"):
            finding = _retest(example, converted, pair, finding)
            if finding.message == LAYOUT:
                ledger.warn(
                    f"{case} in {mode} mode: {LAYOUT}; "
                    "what agrees with contiguous operands in stable order is not held against the converted model"
                )
        finding = ledger.steadied(finding, pair.quantity, pair.name, mode)
        ledger.record(stage, pair.quantity, pair.name, mode, "float64", case, finding)
        outcomes[pair.quantity, pair.name] = finding.outcome
    return outcomes


def compare_at_precision(
    example: Example, converted: Responder, ledger: Ledger, known: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], str]:
    """Judge the converted model in the model's own dtype: (quantity, name) -> outcome. Raises whatever the converted
    model raises.

    known: the outcomes in float64. What differs there, or cannot be judged there, is not judged again here.
    """
    got = converted.respond(example.request)
    own, mode, case, dtype = example.response, example.request.mode, example.case, example.own_dtype
    if not _same_structure(own, got, ledger, mode, case):
        return {("signature", "outputs"): "structure"}
    outcomes: dict[tuple[str, str], str] = {}
    for index, (left, right) in enumerate(zip(own.dtypes, got.dtypes, strict=True)):
        finding = compare_signature((), left, (), right)
        if finding is not None and not ledger.strict and {left, right} <= WHOLE:
            ledger.warn(f"output {index}: {finding.message}")  # formats differ in the integers they have
        elif finding is not None:
            ledger.reject(finding.outcome, "output", str(index), finding.message, mode, case)
            outcomes["output", str(index)] = finding.outcome
    if dtype not in yardstick.ULP:
        return outcomes  # the model's own dtype is float64, and has been judged
    reference = example.reference.groups()
    for pair in _pairs(own, got):
        settled = known.get((pair.quantity, pair.name), "equal") not in ("equal", "vacuous")
        if settled or pair.name not in reference[pair.quantity]:
            continue
        ref = reference[pair.quantity][pair.name]
        finding = compare_precision(ref, pair.reference, pair.got, dtype, floor=pair.floor)
        if finding.outcome in ("precision", "imprecise"):
            finding = compare_precision(
                ref, pair.reference, pair.got, dtype,
                tuple(e for e in example.neighbours(pair.quantity, pair.name) if e.shape == _shape(ref)),
                _fitting(example.slope(pair.quantity, pair.name), ref),
                _fitting(example.coarse(pair.quantity, pair.name), ref),
                normwise=dtype != "float32" and "gradient" in pair.quantity, floor=pair.floor,
            )  # fmt: skip
        elif finding.outcome == "nonfinite" and example.depends_on_denormals():
            finding = replace(finding, outcome="inconclusive", message="the original depends on denormals here")
        elif finding.outcome == "nonfinite":
            finding = replace(finding, certain=example.far_from_overflow(pair.quantity, pair.name))
        finding = ledger.steadied(finding, pair.quantity, pair.name, mode)
        ledger.record("precision", pair.quantity, pair.name, mode, dtype, case, finding)
        outcomes.setdefault((pair.quantity, pair.name), finding.outcome)
    return outcomes


def _judge(example: Example, pair: _Pair, rounded: bool = False) -> Finding:
    finding = compare_structure(pair.reference, pair.got, None, pair.floor)
    if finding.outcome in ("value", "leak"):
        slope = _fitting(example.slope(pair.quantity, pair.name), pair.reference)
        finding = compare_structure(pair.reference, pair.got, slope, pair.floor, rounded)
    return finding


def _retest(example: Example, converted: Responder, pair: _Pair, finding: Finding) -> Finding:
    """A difference no larger than what a rounding error does to the original is no evidence; one that vanishes a little
    away is a kink."""
    if pair.quantity != "buffer":
        again = example.restated.groups()[pair.quantity].get(pair.name)
        changed = again is not None and not compare_structure(pair.reference, again, None, pair.floor).agrees
        if again is not None and changed and _judge(example, replace(pair, reference=again)).agrees:
            return replace(finding, outcome="inconclusive", message=LAYOUT)
    moved = example.moved_by_rounding(pair.quantity, pair.name)
    if np.isfinite(finding.error) and moved >= ROUNDING_SHARE * finding.error > 0.0:
        return replace(finding, outcome="inconclusive", message="a rounding error moves the original as much")
    try:
        near = _near(example, converted)
    except WorkerError:
        raise
    except Exception:  # the original or the converted model refuses the jittered input: the difference stands
        return finding
    if near is not None:
        away, got = near
        for other in _pairs(away.reference, got):
            if (other.quantity, other.name) == (pair.quantity, pair.name) and _judge(away, other).agrees:
                return replace(finding, outcome="kink", message="agrees when the inputs are moved by 1e-3")
    if np.isfinite(finding.error) and example.jumps_by(pair.quantity, pair.name) >= JUMP_SHARE * finding.error > 0.0:
        return replace(finding, outcome="kink", message="a rounding error inside the original makes it jump as far")
    return finding


def _near(example: Example, converted: Responder) -> tuple[Example, Response] | None:
    """The jittered example and the converted model's response to it, made once per example; None without float
    inputs."""
    if not any(array.dtype.kind == "f" for array in example.request.inputs):
        return None
    if example.near is None:
        away = example.jittered()
        example.near = (away, converted.respond(away.request))
    return example.near


def _same_structure(expected: Response, got: Response, ledger: Ledger, mode: str, case: Case) -> bool:
    if got.extra:
        ledger.warn(f"{got.extra} output(s) have no counterpart in {mode} mode: the original returns None there")
    if len(expected.outputs) != len(got.outputs):
        message = f"expected {len(expected.outputs)} outputs, got {len(got.outputs)}"
        ledger.reject("structure", "signature", "outputs", message, mode, case)
        return False
    if expected.structure != got.structure:
        message = f"outputs nest as {expected.structure}, got {got.structure}"
        ledger.reject("structure", "signature", "outputs", message, mode, case)
        return False
    return True


def _pairs(expected: Response, got: Response) -> Iterator[_Pair]:
    """The arrays that both responses have. Those that one lacks are found in the signature stage."""
    there = got.groups()
    for quantity, arrays in expected.groups().items():
        largest = max((yardstick.rms(canonical(a)) for a in arrays.values() if a.dtype.kind == "f"), default=0.0)
        floor = yardstick.FLOOR * largest if quantity != "output" else 0.0
        for name, array in arrays.items():
            if name in there[quantity]:
                yield _Pair(quantity, name, array, there[quantity][name], floor)


def _floats(response: Response) -> Groups:
    return {
        quantity: {name: canonical(array) for name, array in arrays.items() if array.dtype.kind in "fc"}
        for quantity, arrays in response.groups().items()
    }


def _items(groups: Groups) -> Iterator[tuple[str, str, Array]]:
    for quantity, arrays in groups.items():
        for name, array in arrays.items():
            yield quantity, name, array


def _same(moved: list[Groups], quantity: str, name: str) -> list[Array]:
    return [groups[quantity][name] for groups in moved if name in groups.get(quantity, {})]


def _fitting(found: Array | None, like: Array) -> Array:
    """A measured array, or zeros where there is none of that shape."""
    return np.zeros(_shape(like)) if found is None or found.shape != _shape(like) else found


def _shape(array: Array) -> tuple[int, ...]:
    return canonical(array).shape


def _movement(base: Array, other: Array | None) -> Array:
    """As `tolerance.movement`, without jumps: an element that moves by a hundredth of its scale is no rounding."""
    if other is None or other.shape != base.shape:
        return np.zeros(base.shape)
    moved = yardstick.movement(base, other)
    return np.where(moved > 1e-2 * yardstick.scale_of(base), 0.0, moved)


def _jittered(inputs: tuple[Array, ...], size: float, seed: int, relative: bool) -> tuple[Array, ...]:
    """Float inputs moved: by size times themselves with random signs, or by up to that, zeros by the mean."""
    rng = np.random.default_rng([seed, 77])
    moved = []
    for array in inputs:
        if array.dtype.kind != "f" or not array.size:
            moved.append(array)
        elif relative:
            moved.append((array * (1 + size * rng.choice([-1.0, 1.0], array.shape))).astype(array.dtype))
        else:
            finite = np.abs(array[np.isfinite(array)])
            unit = float(np.mean(finite)) if finite.size and np.any(finite) else 1e-3
            by = np.where(array == 0, unit, np.abs(array))  # what is tiny stays tiny: its regime is no kink
            moved.append((array + size * by * (rng.random(array.shape) - 0.3)).astype(array.dtype))
    return tuple(moved)
