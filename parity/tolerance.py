"""The yardstick: how far two right programs may differ, measured and not picked. numpy only, pure.

Structure (float64): `2^17 * (2^-52 * max(|ref|, rms(ref)) + N)`, where N is the response of the original, in float64,
to sign perturbations of its inputs and parameters by one ulp (measured at 2^-27, where it is not lost in rounding, and
scaled down). Two right programs differ by some multiple of N; a wrong one by far more.

Precision (the model's own dtype): `32 * max(e, rms(e), N) + 8 ulp * max(|ref|, rms(ref)) + 2^-116`, where e is the
original's own error against float64, here and at neighbouring inputs, so that one lucky rounding does not set the
yardstick.

The constants were chosen on 18 honest pairs and 111 variants of them: no honest pair is rejected by the first rule,
0.07 % by the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

EPS64 = 2.0**-52
STRUCTURE_FACTOR = 2.0**17
DELTA = 2.0**-27  # the relative size of the perturbations
FINE_DELTA = 2.0**-40  # a second size, where the first was so large that it may have been a jump
DRAWS = 3
JUMP = 1e6  # a condition number above this is looked at again with FINE_DELTA
CONCLUSIVE = 1e-6  # a tolerance above this, relative to scale, proves nothing
FLOOR = 2.0**-42  # gradients below this, relative to the largest gradient of the same run, are zero up to rounding
PRECISION_FACTOR = 32.0
PRECISION_ULPS = 8.0
IMPRECISE = 64.0
TINY = 2.0**-116
ULP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
COARSE = 8.0  # ulps of the coarse perturbation that shows which ReLUs flip at working precision


def rms(array: Array) -> float:
    """Root mean square of the finite elements; 0.0 if there are none."""
    flat = np.ravel(array)
    if flat.dtype.kind == "f" and flat.size:
        total = (
            float(np.dot(flat, flat)) if flat.dtype == np.float64 else float(np.sum(np.square(flat, dtype=np.float64)))
        )
        if 1e-280 < total < 1e280:  # nothing that is not finite, nothing lost to overflow or underflow
            return float(np.sqrt(total / flat.size))
    finite: Array = array[np.isfinite(array)]
    if not finite.size:
        return 0.0
    largest = float(np.max(np.abs(finite)))
    if largest == 0.0:
        return 0.0
    return largest * float(np.sqrt(np.mean(np.square(finite / largest))))  # squares of 1e200 would overflow


def scale_of(reference: Array) -> Array:
    """max(|ref_i|, rms(ref)), elementwise; 0 where not finite."""
    magnitude = np.where(np.isfinite(reference), np.abs(reference), 0.0)
    return np.maximum(magnitude, rms(reference))


def movement(base: Array, moved: Array) -> Array:
    """|moved - base|, 0 where either is not finite."""
    with np.errstate(all="ignore"):
        return np.asarray(np.nan_to_num(np.abs(moved - base), nan=0.0, posinf=0.0))


def condition(base: Array, moved: Iterable[Array], finely_moved: Sequence[Array] | None = None) -> Array:
    """Response per unit of relative perturbation, elementwise: the largest over the draws.

    Where it exceeds `JUMP` times the scale, `finely_moved` (responses to `FINE_DELTA`) tells a steep slope, whose
    response shrinks with the perturbation, from a jump, whose response does not. A jump is not conditioning: the
    element gets 0, and the kink test decides. Without `finely_moved` steep elements keep their slope.
    """
    response = largest(base, moved)
    slope = response / DELTA
    if finely_moved is None:
        return slope
    fine = largest(base, finely_moved)
    steep = slope > JUMP * np.maximum(scale_of(base), 1e-300)
    jump = steep & (fine > response * 2.0**-6)  # a slope would give 2^-13
    return np.where(jump, 0.0, np.where(steep, fine / FINE_DELTA, np.maximum(slope, fine / FINE_DELTA)))


def is_steep(base: Array, moved: Iterable[Array]) -> bool:
    """Whether any element responds so strongly that it may have jumped."""
    return bool(np.any(largest(base, moved) / DELTA > JUMP * np.maximum(scale_of(base), 1e-300)))


def largest(base: Array, moved: Iterable[Array]) -> Array:
    """The largest movement of each element over the arrays that have the base's shape."""
    response = np.zeros(base.shape)
    for other in moved:
        if other.shape == base.shape:
            response = np.maximum(response, movement(base, other))
    return response


def structure_tolerance(reference: Array, slope: Array | None, floor: float = 0.0) -> Array:
    """Elementwise tolerance in float64. `floor` is absolute: what is zero up to rounding beside the rest of the run."""
    noise = 0.0 if slope is None else EPS64 * slope
    return STRUCTURE_FACTOR * (EPS64 * scale_of(reference) + noise) + floor


def is_conclusive(reference: Array, tolerance: Array, limit: float = CONCLUSIVE) -> bool:
    """Whether a tolerance is small enough (`limit`, relative to scale), in most elements, for agreement within it to be
    evidence."""
    if not reference.size:
        return False
    return bool(np.mean(tolerance > limit * np.maximum(scale_of(reference), 1e-300)) <= 0.5)


def precision_tolerance(
    reference: Array, own_errors: Sequence[Array], dtype: str, slope: Array | None = None, coarse: Array | None = None
) -> Array:
    """Elementwise tolerance at working precision.

    own_errors: |original - float64 reference| here and, where measured, at neighbouring inputs. slope: as `condition`
    gives. coarse: the float64 response to perturbations of a few ulps of `dtype`: at that size ReLUs flip and ties
    break, in any right program.
    """
    floor = np.zeros(reference.shape)
    for error in own_errors:
        floor = np.maximum(floor, np.maximum(error, rms(error)))
    if slope is not None:
        noise = np.nan_to_num(slope, posinf=0.0) * ULP[dtype]
        floor = np.maximum(floor, np.maximum(noise, rms(noise)))
    if coarse is not None:
        floor = np.maximum(floor, np.maximum(coarse, rms(coarse)))
    return PRECISION_FACTOR * floor + PRECISION_ULPS * ULP[dtype] * scale_of(reference) + TINY
