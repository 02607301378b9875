"""Artifacts that are less precise than the original on purpose: quantised ones against a stated budget, half-precision
ones against the original's own conditioning. numpy only.

A quantised artifact knows the range of values that it was calibrated on; beyond it, it saturates, and that is no error
of the conversion. So its budget is held against inputs like the original's example, within the range that the artifact
states: other examples are run, and judged by shape and by what is finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import Finding, canonical
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import Perturbation, Response
from isomorph.parity.settings import QUANTISED
from isomorph.parity.spread import spread_of
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["budgeted", "compare_normwise", "compare_to_budget", "judge_budget", "judge_quantised"]

HALF = ("float16", "bfloat16")
REPRESENTATIVE = frozenset({"normal"})  # distributions that a calibration set may be like
EXAMPLES = 8  # over which the budget is judged
HALF_FACTOR = 4.0
UNCLEAR = 0.1  # a response of the original, relative to its size, above which nothing is known of the other's error
LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38}
FLAT = 1e-2  # an output that deviates from its mean by less, relative to its size, is measured by its size
BEYOND = "beyond what the artifact was calibrated for"
Outcomes = dict[tuple[str, str], str]


def budgeted(pair: Pair) -> bool:
    """Whether the converted model is judged here, and not against the original's own error in the same dtype."""
    precision = pair.converted.about().precision
    return precision in QUANTISED or (precision in HALF and precision != pair.own_dtype)


def judge_quantised(pair: Pair, example: Example, ledger: Ledger) -> Outcomes:
    """One example of an artifact that is `budgeted`, in the precision stage, where a difference is a vote.

    Quantised: each float output against `settings.quantised_budget`. Half precision: outputs and gradients, root mean
    square against the original's response to perturbations of that size. Integers and booleans are not judged where
    they differ: a rounding decides an argmax. Returns (quantity, name) -> outcome, without the votes against. Raises
    what the converted model raises.
    """
    precision = pair.converted.about().precision
    got = pair.converted.respond(example.request)
    mode, case = example.request.mode, example.case
    outcomes: Outcomes = {}
    if len(got.outputs) != len(example.reference.outputs):
        message = f"expected {len(example.reference.outputs)} outputs, got {len(got.outputs)}"
        ledger.reject("structure", "signature", "outputs", message, mode, case)
        return {("signature", "outputs"): "structure"}
    found = _half(pair, example, got, precision) if precision in HALF else _quantised(pair, example, got, precision)
    for quantity, name, finding in found:
        if finding.message != BEYOND:  # of which nothing was expected: neither evidence nor a lack of it
            ledger.record("precision", quantity, name, mode, precision, case, finding)
        if finding.outcome not in ("precision", "imprecise"):
            outcomes[quantity, name] = finding.outcome
    return outcomes


def compare_to_budget(reference: Array, got: Array, budget: float) -> Finding:
    """The root mean square of the error over that of the reference's deviation from its mean, against a budget.

    `relative` and `allowed` of the finding are these two; "precision" where it is exceeded, "vacuous" for a reference
    that is zero, "nonfinite" where either has NaN or infinities in another place.
    """
    left, right = canonical(reference), canonical(got)
    if left.shape != right.shape:
        return Finding("shape", f"expected shape {list(left.shape)}, got {list(right.shape)}")
    if not left.size or left.dtype.kind != "f":
        same = bool(np.array_equal(left, right))
        return Finding("vacuous" if not left.size else "equal" if same else "inconclusive", elements=left.size)
    finite = np.isfinite(left)
    if not np.isfinite(right[finite]).all():
        at = np.unravel_index(int(np.argmax(finite & ~np.isfinite(right))), left.shape)
        return Finding(
            "nonfinite", "NaN or infinity where the original is finite", error=float("inf"), elements=left.size,
            position=tuple(int(i) for i in at), expected=float(left[at]), got=float(right[at]),
            failing=int(np.sum(finite & ~np.isfinite(right))), relative=float("inf"),
        )  # fmt: skip
    size = yardstick.rms(left)
    if size == 0.0:
        return Finding("vacuous", "zero", elements=left.size)
    unit = max(float(np.std(left[finite])), FLAT * size)
    error = np.where(finite, np.abs(np.where(finite, right, 0.0) - np.where(finite, left, 0.0)), 0.0)
    at = np.unravel_index(int(np.argmax(error)), error.shape)
    relative = yardstick.rms(error) / unit
    message = f"relative root mean square error {relative:.3g}, budget {budget:g}"
    return Finding(
        "equal" if relative <= budget else "precision", message,
        error=float(error[at]), tolerance=budget * unit, scale=unit, position=tuple(int(i) for i in at),
        expected=float(left[at]), got=float(right[at]), failing=int(np.sum(error > budget * unit)), elements=left.size,
        relative=relative, allowed=budget, spread=spread_of(error / unit, None, ~finite),
    )  # fmt: skip


def judge_budget(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """A quantised artifact over `EXAMPLES` inputs that a calibration set may be like, and the original's example: each
    output's error against its budget (stage "quantised", kind "precision").

    coverage["quantised"]: output -> {"error", "budget", "argmax": the share of rows whose largest element is the same
    one, "saturated": the share of elements that lie at the artifact's own extremes while the original's lie beyond}.
    """
    precision = pair.converted.about().precision
    if precision not in QUANTISED:
        return None
    budget = pair.settings.quantised_budget(precision)
    pooled, case = _pooled(pair)
    if not pooled:
        return not_checked(coverage, "the budget of a quantised artifact", "no example lies within its range")
    said: dict[str, Any] = coverage.setdefault("quantised", {})
    for index, (left, right) in enumerate(p.joined() for p in pooled):
        finding = compare_to_budget(left, right, budget)
        dtype = "float64" if left.dtype.kind == "f" else str(left.dtype)
        ledger.record("quantised", "output", str(index), "eval", precision, case, finding)
        said[str(index)] = {"error": round(finding.relative, 6), "budget": budget, "dtype": dtype} | pooled[
            index
        ].facts()
    return None


@dataclass
class _Pool:
    """One output over all examples."""

    left: list[Array] = field(default_factory=list)
    right: list[Array] = field(default_factory=list)

    def add(self, left: Array, right: Array) -> None:
        """Another example."""
        self.left.append(canonical(left))
        self.right.append(canonical(right))

    def joined(self) -> tuple[Array, Array]:
        """All elements, flat; as they are where the shapes differ."""
        if any(a.shape != b.shape for a, b in zip(self.left, self.right, strict=True)):
            return self.left[0], self.right[0]
        return np.concatenate([a.ravel() for a in self.left]), np.concatenate([b.ravel() for b in self.right])

    def facts(self) -> dict[str, float]:
        """Agreement of the largest element of each row, and saturation."""
        left, right = self.joined()
        if left.dtype.kind != "f" or left.shape != right.shape:
            return {"agreement": float(np.mean(left == right)) if left.shape == right.shape else 0.0}
        low, high = float(np.min(right, initial=np.inf)), float(np.max(right, initial=-np.inf))
        usual = 4.0 * float(np.median(np.abs(left - right)))  # the largest element may just have been rounded down
        beyond = ((right == high) & (left > high + usual)) | ((right == low) & (left < low - usual))
        facts = {"saturated": round(float(np.mean(beyond)), 6)}
        rows = [(a, b) for a, b in zip(self.left, self.right, strict=True) if a.ndim > 1 and a.shape[-1] > 1]
        if rows:
            same = np.concatenate([(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in rows])
            facts["argmax"] = round(float(np.mean(same)), 6)
        return facts


def _pooled(pair: Pair) -> tuple[list[_Pool], Case]:
    """Every output over the examples; none where the original accepts none."""
    pools: list[_Pool] = []
    cases = strategies.plan(pair.contract, EXAMPLES, pair.settings.seed + 81, "eval", shapes=1)
    given = [(case, strategies.materialise(pair.contract, replace(case, distribution="normal"))) for case in cases]
    own = tuple(spec.example for spec in pair.contract.inputs if spec.example is not None)
    if len(own) == len(pair.contract.inputs):
        given.insert(0, (replace(cases[0], source="example", sizes=pair.contract.sizes), own))
    for case, drawn in given:
        example = pair.ask("eval", case, _clipped(pair, drawn), backward=False)
        if example is None:
            continue
        outputs = pair.converted.respond(example.request).outputs
        pools = pools or [_Pool() for _ in example.reference.outputs]
        for pool, left, right in zip(pools, example.reference.outputs, outputs, strict=False):
            pool.add(left, right)
    return [pool for pool in pools if pool.left], cases[0]


def _clipped(pair: Pair, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Float inputs within the range that the artifact states for them."""
    ports = pair.converted.about().inputs
    clipped = []
    for index, array in enumerate(arrays):
        low, high = (ports[index].low, ports[index].high) if index < len(ports) else (None, None)
        if array.dtype.kind == "f" and (low is not None or high is not None):
            array = np.clip(array, low, high).astype(array.dtype)
        clipped.append(array)
    return tuple(clipped)


def _within(pair: Pair, example: Example) -> bool:
    """Whether an example is one that the artifact may have been calibrated for."""
    inputs = example.request.inputs
    inside = all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(inputs, _clipped(pair, inputs), strict=True)
    )
    return example.case.distribution in REPRESENTATIVE and inside


def _quantised(pair: Pair, example: Example, got: Response, precision: str) -> Iterator[tuple[str, str, Finding]]:
    budget = pair.settings.quantised_budget(precision)
    like = _within(pair, example)
    for index, (reference, new) in enumerate(zip(example.reference.outputs, got.outputs, strict=True)):
        finding = compare_to_budget(reference, new, budget)
        if not like and finding.outcome in ("precision", "equal"):
            finding = replace(finding, outcome="inconclusive", message=BEYOND)
        yield "output", str(index), finding


def _half(pair: Pair, example: Example, got: Response, precision: str) -> Iterator[tuple[str, str, Finding]]:
    """Norm-wise, as half precision must be: elements are cancelled away by any order of summation."""
    there = got.groups()
    moved = _rounded_everywhere(pair, example, precision)
    for quantity, arrays in example.reference.groups().items():
        floats = [canonical(a) for a in arrays.values() if a.dtype.kind == "f"]
        floor = yardstick.ULP[precision] * max(map(yardstick.rms, floats), default=0.0) if quantity != "output" else 0.0
        for name, reference in arrays.items():
            new = there[quantity].get(name)
            if new is None:
                continue
            others = [response.groups()[quantity][name] for response in moved]
            yield quantity, name, compare_normwise(reference, new, others, precision, floor)


def compare_normwise(
    reference: Array, got: Array, moved: Sequence[Array], precision: str, floor: float = 0.0
) -> Finding:
    """The root mean square of the error against that of the original's response to a rounding error of the narrower
    dtype in every value (`moved`), which is some three times what rounding does.

    Where that response is no smaller than the array itself the finding is "inconclusive". floor: absolute, for arrays
    that are small beside others of the same run.
    """
    left, right = canonical(reference), canonical(got)
    if left.shape != right.shape:
        return Finding("shape", f"expected shape {list(left.shape)}, got {list(right.shape)}")
    if left.dtype.kind != "f" or not left.size:
        same = bool(np.array_equal(left, right))
        return Finding("vacuous" if not left.size else "equal" if same else "inconclusive", elements=left.size)
    noise = max(
        (yardstick.rms(yardstick.movement(left, canonical(m))) for m in moved if m.shape == left.shape), default=0.0
    )
    size = yardstick.rms(left)
    if size <= floor:
        return Finding("vacuous", "zero up to rounding", elements=left.size)
    if noise > UNCLEAR * size:
        return Finding("inconclusive", "the original is ill-conditioned at this precision", elements=left.size)
    allowed = HALF_FACTOR * noise + yardstick.ULP[precision] * size + floor
    finding = compare_to_budget(left, right, 0.0)
    if finding.outcome == "nonfinite" and np.any(np.abs(left) > LARGEST[precision]):
        return Finding("inconclusive", "beyond the range of this precision", elements=left.size)
    if finding.outcome not in ("equal", "precision"):
        return finding
    error = yardstick.rms(yardstick.movement(left, right))
    message = f"relative root mean square error {error / size:.3g}, allowed {allowed / size:.3g}"
    return replace(
        finding, outcome="equal" if error <= allowed else "precision", message=message, tolerance=allowed, scale=size,
        relative=error / size, allowed=allowed / size, ratio=error / max(noise, 1e-300), floor=noise / size,
    )  # fmt: skip


def _rounded_everywhere(pair: Pair, example: Example, precision: str) -> list[Response]:
    """The original, in float64, with every input, parameter and, where the runner can, intermediate value off by an ulp
    of a narrower dtype."""
    double = pair.original64 or pair.original
    delta = yardstick.ULP[precision]
    deltas = [Perturbation(delta, 300 + seed, inside=True) for seed in range(yardstick.DRAWS)]
    return [double.respond(replace(example.request, perturbation=wanted)) for wanted in deltas]
