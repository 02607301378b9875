"""Two arrays, one finding. numpy only, pure: no framework, no drawing, no logging.

A finding says how one array of the converted model (`got`) stands to the original's. Its outcome is "equal", "vacuous"
(nothing there to compare), "inconclusive", or a kind of `verdict.Mismatch`: "shape", "dtype", "integer", "nonfinite",
"value", "leak", "imprecise", "precision".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.spread import Spread, spread_of
from isomorph.parity.tolerance import Array

__all__ = ["AGREES", "Finding", "canonical", "compare_precision", "compare_signature", "compare_structure"]

AGREES = frozenset({"equal", "vacuous", "inconclusive"})
LEAK = 2.0 * 2.0**-23  # two ulps of float32: a float32 constant or kernel inside a float64 program
SMALL = 2.0**-10  # of the root mean square: elements whose own accuracy the scale hides
DIGITS = 256.0  # times as inaccurate, relative to themselves, as the original's
STEADY = 2.0**-6  # what a rounding error of inputs, parameters and intermediates may do to such an element


@dataclass(frozen=True)
class Finding:
    """The outcome for one array. Numbers describe the worst element; `relative` is the largest error over the scale and
    `allowed` the tolerance there over the scale. `ratio`: rms error in units of the original's own. `floor`: the
    original's own largest error over the scale: against float64, or what rounding in float64 does to it; None where it
    was not measured. `spread`: of the errors over the elements, None where they are no floats."""

    outcome: str
    message: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    scale: float = 0.0
    position: tuple[int, ...] = ()
    expected: float = 0.0
    got: float = 0.0
    failing: int = 0
    elements: int = 0
    relative: float = 0.0
    allowed: float = 0.0
    ratio: float | None = None
    certain: bool = False  # needs no second example, also at working precision
    floor: float | None = None
    spread: Spread | None = field(default=None, repr=False, compare=False)

    @property
    def agrees(self) -> bool:
        """Whether this is no reason to reject."""
        return self.outcome in AGREES


def canonical(array: Any) -> Array:
    """Floats of any width as float64; complex as float64 with a last axis of (real, imaginary); others as they are."""
    given: Array = np.asarray(array)
    if given.dtype.kind == "c":
        given = np.stack([given.real, given.imag], -1)
    elif given.dtype.kind != "f" and str(given.dtype) != "bfloat16":
        return given
    return np.asarray(given, np.float64)


def compare_signature(shape: tuple[int, ...], dtype: str, got_shape: tuple[int, ...], got_dtype: str) -> Finding | None:
    """A finding if shape or dtype (as torch names it) differ, else None."""
    if shape != got_shape:
        return Finding("shape", f"expected shape {list(shape)}, got {list(got_shape)}")
    if dtype != got_dtype:
        return Finding("dtype", f"expected dtype {dtype}, got {got_dtype}")
    return None


def compare_structure(
    reference: Any, got: Any, slope: Array | None = None, floor: float = 0.0, rounded: bool = False
) -> Finding:
    """Judge a float64 array of the converted model against the original's, in float64.

    slope: the original's conditioning (`tolerance.condition`), None while it is not measured: the tolerance is then the
    smallest possible, so agreement within it is evidence whatever the conditioning. floor: see `structure_tolerance`.
    rounded: constants inside are known to be rounded to float32 in one of the models; a leak is then as large as that
    makes it, by the conditioning, as the tolerance is.
    """
    early = _trivial(reference, got)
    if early is not None:
        return early
    ref, new = canonical(reference), canonical(got)
    special = ~np.isfinite(ref)
    if not _same_special(ref, new):
        return _nonfinite(ref, new)
    if special.all():
        return Finding("vacuous", "no finite element", elements=ref.size)
    allowed = yardstick.structure_tolerance(ref, slope, floor)
    finding = _measure(ref, new, allowed, special, None if slope is None else yardstick.EPS64 * slope)
    # the floor is left out: what is zero in the original is conclusive, and no scale makes a floor small beside it
    conclusive = slope is None or yardstick.is_conclusive(ref, yardstick.structure_tolerance(ref, slope))
    if not finding.failing:
        if not conclusive and finding.relative > yardstick.CONCLUSIVE:
            return replace(finding, outcome="inconclusive", message="the original is ill-conditioned here")
        largest = float(np.max(np.abs(ref[~special])))
        return replace(finding, outcome="vacuous" if largest <= floor else "equal")
    if not conclusive:
        return replace(finding, outcome="inconclusive", message="the original is ill-conditioned here")
    leaks = finding.relative <= LEAK
    if rounded and not leaks:
        grown = (LEAK / (yardstick.STRUCTURE_FACTOR * yardstick.EPS64)) * yardstick.structure_tolerance(ref, slope)
        leaks = not np.any((yardstick.movement(ref, new) > grown + floor) & ~special)
    return replace(finding, outcome="leak" if leaks else "value")


def compare_precision(
    reference: Any,
    original: Any,
    got: Any,
    dtype: str,
    neighbours: tuple[Array, ...] = (),
    slope: Array | None = None,
    coarse: Array | None = None,
    normwise: bool = False,
    floor: float = 0.0,
) -> Finding:
    """Judge an array at working precision.

    reference: the original in float64 on the same inputs; original, got: both models in `dtype`. neighbours: the
    original's errors at neighbouring inputs; slope, coarse: see `tolerance.precision_tolerance`. Where the
    original is not finite, what the float64 reference says is accepted: a finite value, or the same NaN or infinity.
    normwise: judge the root mean square of the error, as is right for gradients in half precision. floor: what is zero
    up to rounding in the reference.
    """
    early = _trivial(original, got)
    if early is not None:
        return early
    ref, own, new = canonical(reference), canonical(original), canonical(got)
    if ref.shape != own.shape:
        return Finding("inconclusive", "the original has another shape in float64")
    special = ~np.isfinite(own)
    if not _same_special(own, new):
        better = special & ((np.isfinite(ref) & np.isfinite(new)) | (ref == new) | (np.isnan(ref) & np.isnan(new)))
        rest = np.where(better, 0.0, own)
        if not _same_special(rest, np.where(better, 0.0, new)):
            return _nonfinite(own, new)
    special = special | ~np.isfinite(ref)
    if special.all():
        return Finding("vacuous", "no finite element", elements=ref.size)
    own_error = np.where(special, 0.0, yardstick.movement(ref, own))
    safe = np.where(special, 0.0, ref)
    allowed = yardstick.precision_tolerance(safe, (own_error, *neighbours), dtype, slope, coarse)
    if float(np.max(np.abs(safe))) <= floor:  # zero up to rounding, which is coarser at working precision
        allowed = allowed + floor * yardstick.ULP[dtype] / yardstick.EPS64
    finding = _measure(ref, new, allowed, special, own_error, both=True)
    unit = max(yardstick.rms(own_error), yardstick.ULP[dtype] * yardstick.rms(safe) * 0.25, yardstick.TINY)
    error = np.where(special, 0.0, yardstick.movement(ref, new))
    finding = replace(finding, ratio=yardstick.rms(error) / unit)
    lost = _digits_lost(safe, own_error, error, slope) if dtype == "float32" and not floor else 0.0
    if lost > DIGITS:
        message = f"small elements are {lost:.0f} times as inaccurate, relative to themselves, as the original's"
        return replace(finding, outcome="imprecise", message=message)
    if not finding.failing or (normwise and yardstick.rms(error) <= yardstick.rms(allowed)):
        return replace(finding, outcome="equal" if np.any(np.abs(safe) > floor) else "vacuous")
    beyond = bool(np.any((error > yardstick.IMPRECISE * allowed) & ~special))
    return replace(finding, outcome="precision" if beyond else "imprecise")


def _digits_lost(ref: Array, own_error: Array, error: Array, slope: Array | None) -> float:
    """How many times as inaccurate as the original's the small elements are, relative to themselves, in float32.

    Beside large elements the scale hides them: exp(x) - 1 for expm1(x). Small: far below the root mean square, far
    above underflow, and steady under rounding errors (`slope`). 0.0 where there are hardly any.
    """
    size = np.abs(ref)
    small = (size < SMALL * yardstick.rms(ref)) & (size > 2.0**-90)
    if slope is not None:
        small &= slope * yardstick.ULP["float32"] < STEADY * size
    if np.sum(small) < 3:
        return 0.0
    own = max(float(np.max(own_error[small] / size[small])), yardstick.ULP["float32"])
    return float(np.quantile(error[small] / size[small], 0.75)) / own


def _trivial(reference: Any, got: Any) -> Finding | None:
    """Shapes, emptiness, and everything that is not floating point."""
    ref, new = np.asarray(reference), np.asarray(got)
    if ref.shape != new.shape:
        return Finding("shape", f"expected shape {list(ref.shape)}, got {list(new.shape)}")
    if not ref.size:
        return Finding("vacuous", "empty")
    ref, new = canonical(ref), canonical(new)
    if ref.dtype.kind == "f":
        return None if new.dtype.kind == "f" else Finding("dtype", f"expected a float array, got {new.dtype}")
    wrong = ref != new
    if not wrong.any():
        return Finding("equal", elements=ref.size)
    at = np.unravel_index(int(np.argmax(wrong)), ref.shape)
    return Finding(
        "integer", "integers and booleans must be equal", position=tuple(int(i) for i in at), elements=ref.size,
        expected=float(ref[at]), got=float(new[at]), failing=int(wrong.sum()), error=float(np.max(wrong)), relative=1.0,
    )  # fmt: skip


def _same_special(left: Array, right: Array) -> bool:
    infinite = np.isinf(left)
    return (
        bool(np.array_equal(np.isnan(left), np.isnan(right)))
        and bool(np.array_equal(infinite, np.isinf(right)))
        and bool(np.array_equal(left[infinite], right[infinite]))
    )


def _nonfinite(ref: Array, new: Array) -> Finding:
    same = (np.isfinite(ref) & np.isfinite(new)) | (np.isnan(ref) & np.isnan(new)) | (ref == new)
    at = np.unravel_index(int(np.argmax(~same)), ref.shape)
    return Finding(
        "nonfinite", "NaN or infinity in different places", error=float("inf"), position=tuple(int(i) for i in at),
        expected=float(ref[at]), got=float(new[at]), failing=int((~same).sum()), elements=ref.size,
        relative=float("inf"),
    )  # fmt: skip


def _measure(
    ref: Array, new: Array, allowed: Array, special: Array, noise: Array | None = None, both: bool = False
) -> Finding:
    """The numbers of a comparison of finite elements; `failing` counts those beyond `allowed`. noise: the original's
    own error. both: its spread is wanted, too."""
    error = np.where(special, 0.0, yardstick.movement(ref, new))
    error = np.where(~special & ~np.isfinite(new), np.inf, error)  # a finite reference met by NaN or infinity
    scale = np.maximum(yardstick.scale_of(ref), 1e-300)
    with np.errstate(all="ignore"):
        excess = np.where(special, 0.0, error / np.maximum(allowed, 1e-300))
        relative = error / scale
        own = None if noise is None else np.where(special, 0.0, noise / scale)
    at = np.unravel_index(int(np.argmax(excess)), ref.shape)
    return Finding(
        "equal", error=float(error[at]), tolerance=float(allowed[at]), scale=float(scale[at]),
        position=tuple(int(i) for i in at), expected=float(ref[at]), got=float(new[at]),
        failing=int(np.sum((error > allowed) & ~special)), elements=ref.size,
        relative=float(np.max(relative)), allowed=float(allowed[at] / scale[at]),
        floor=None if own is None else float(np.max(own)), spread=spread_of(relative, own if both else None, special),
    )  # fmt: skip
