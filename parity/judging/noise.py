"""How far two runs of one model may differ by rounding alone: the yardstick of the stages that compare a model with
itself. numpy only, pure but for the runs that measure the original's conditioning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import Finding, canonical, compare_structure
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array

__all__ = ["judge_itself", "relative_difference"]

NARROW = 0.1  # at working precision a tolerance above this, relative to scale, proves nothing


def judge_itself(
    example: Example, quantity: str, name: str, first: Array, second: Array, dtype: str, rows: Array | None = None
) -> Finding:
    """Two answers of one model to what is the same question, in `dtype` ("float64", or a key of `tolerance.ULP`).

    The tolerance is that of the structure stage for float64, that of the precision stage otherwise, from the original's
    conditioning; it is measured only where the answers differ by more than the least it could be. rows: where `first`
    lies in the original's array, as indices of axis 0; None for all of it. Outcomes as `compare.Finding`'s, "value" for
    a difference.
    """
    array, other = np.asarray(first), np.asarray(second)
    if array.dtype == other.dtype and array.tobytes() == other.tobytes() and array.shape == other.shape:
        return Finding("equal" if array.size else "vacuous", elements=array.size)
    floor = _floor(example, quantity)
    finding = compare_structure(first, second, None, floor)
    if finding.outcome not in ("value", "leak") or array.dtype.kind not in "fc":
        return finding
    if dtype not in yardstick.ULP:
        slope = _rows(example.slope(quantity, name), rows, canonical(first))
        finding = compare_structure(first, second, slope, floor)
        return replace(finding, outcome="value") if finding.outcome == "leak" else finding
    return _at_precision(example, quantity, name, canonical(first), canonical(second), dtype, rows, floor)


def relative_difference(first: Array, second: Array) -> float:
    """The largest difference over the largest magnitude; inf for other shapes or non-finite values in other places."""
    left, right = canonical(first), canonical(second)
    if left.shape != right.shape:
        return float("inf")
    if left.dtype.kind != "f":
        return float(bool(np.any(left != right)))
    if not np.array_equal(np.where(np.isfinite(left), 0.0, left), np.where(np.isfinite(right), 0.0, right), True):
        return float("inf")
    largest = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    return float(np.max(yardstick.movement(left, right), initial=0.0)) / max(largest, 1e-300)


def _at_precision(
    example: Example,
    quantity: str,
    name: str,
    first: Array,
    second: Array,
    dtype: str,
    rows: Array | None,
    floor: float,
) -> Finding:
    """As the precision stage allows it of the converted model beside the original: own error, conditioning, flips."""
    reference = example.reference.groups()[quantity].get(name)
    own = example.response.groups()[quantity].get(name)
    if reference is None or own is None:
        return Finding("inconclusive", "the original has no such array")
    base = canonical(reference) if rows is None else canonical(reference)[rows]
    mine = canonical(own) if rows is None else canonical(own)[rows]
    if base.shape != first.shape or mine.shape != first.shape:
        return Finding("inconclusive", "the original has another shape here")
    errors = [yardstick.movement(base, mine)]
    errors += [_rows(e, rows, base) for e in example.neighbours(quantity, name)]
    slope, coarse = (_rows(f(quantity, name), rows, base) for f in (example.slope, example.coarse))
    allowed = yardstick.precision_tolerance(base, errors, dtype, slope, coarse)
    if np.any(base) and not yardstick.is_conclusive(base, allowed, NARROW):
        return Finding("inconclusive", "the original is ill-conditioned here", elements=first.size)
    allowed = allowed + floor * yardstick.ULP[dtype] / yardstick.EPS64
    finding = compare_structure(first, second)
    error = yardstick.movement(first, second)
    failing = int(np.sum(error > allowed))
    at = np.unravel_index(int(np.argmax(error / allowed)), error.shape)
    return replace(
        finding, outcome="value" if failing else "equal", failing=failing, error=float(error[at]),
        tolerance=float(allowed[at]), position=tuple(int(i) for i in at), expected=float(first[at]),
        got=float(second[at]), message="",
    )  # fmt: skip


def _floor(example: Example, quantity: str) -> float:
    if quantity == "output":
        return 0.0
    arrays = example.reference.groups()[quantity].values()
    return yardstick.FLOOR * max((yardstick.rms(canonical(a)) for a in arrays if a.dtype.kind == "f"), default=0.0)


def _rows(measured: Array | None, rows: Array | None, like: Array) -> Array:
    """A measured array at those rows; zeros where there is none that fits."""
    if measured is not None and rows is not None and measured.ndim:
        measured = measured[rows] if int(np.max(rows, initial=-1)) < measured.shape[0] else None
    return np.zeros(like.shape) if measured is None or measured.shape != like.shape else measured
