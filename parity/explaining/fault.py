"""One module whose inputs agree and whose output does not, and what can be said of the difference from the numbers
alone. numpy only, pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isomorph.parity.compare import canonical
from isomorph.parity.explaining.shelf import arranged
from isomorph.parity.tolerance import Array, scale_of

__all__ = ["Fault", "alike", "clear_number", "distance", "plain_causes"]


UNEXPLAINED = 2e-3


@dataclass(frozen=True)
class Fault:
    """kind: the module's class or the function's name. mode: "eval" or "train". inputs, expected: of the original. got:
    what the converted model has in their place, None where that is not known. shows: whether the converted model has a
    value anywhere inside, where the original has none like it; confirmed: the same of what the next call makes of the
    value. live: what makes the call again, if it can be. unit: the difference, relative to scale, up to
    which two values are one."""

    kind: str
    path: str
    mode: str
    inputs: tuple[Array, ...]
    expected: tuple[Array, ...]
    got: tuple[Array | None, ...]
    shows: Callable[[Array], bool]
    confirmed: Callable[[Array], bool] = lambda array: False
    live: Any = None
    unit: float = 1e-9

    def observed(self) -> tuple[Array | None, int]:
        """The first output that differs, as the converted model has it, and its place."""
        for place, (expected, got) in enumerate(zip(self.expected, self.got, strict=False)):
            if got is not None and canonical(got).dtype.kind == "f" and not alike(expected, got, self.unit):
                return got, place
        return None, 0

    def reproduced(self, outputs: Sequence[Array]) -> int:
        """How surely outputs are what the converted model has, where the original has something else: 3 they stand in
        this place, up to a five-hundredth of the difference; 2 the next call went on with them; 1 it has them anywhere;
        0 not at all."""
        got, place = self.observed()
        if place >= len(outputs) or place >= len(self.expected):
            return 0
        output, expected = outputs[place], self.expected[place]
        if alike(expected, output, self.unit) or not np.isfinite(canonical(output)).any():
            return 0
        if got is not None:
            apart, left = distance(expected, got), distance(got, output)
            if left <= max(self.unit, UNEXPLAINED * apart) and left < 0.1 * apart:
                return 3
        if output.size < 3:
            return 0
        return 2 if self.confirmed(output) else 1 if self.shows(output) else 0


def distance(left: Array, right: Array) -> float:
    """The largest difference over the scale of `left`; inf where shapes differ or one is not finite alone."""
    a, b = canonical(left), canonical(right)
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        error = np.abs(a - b) / np.maximum(scale_of(a), 1e-300)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.nan_to_num(np.where(same, 0.0, error), nan=np.inf), initial=0.0))


def alike(left: Array, right: Array, unit: float = 1e-9) -> bool:
    """Whether two arrays are one value up to `unit` of the scale; NaN equals NaN."""
    a, b = canonical(left), canonical(right)
    if a.shape != b.shape:
        return False
    with np.errstate(all="ignore"):
        near = np.abs(a - b) <= unit * np.maximum(scale_of(a), 1e-300)
    return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))


def clear_number(value: float, digits: int = 3) -> float:
    """The value with so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def plain_causes(expected: Array, got: Array, inputs: Sequence[Array] = (), unit: float = 1e-9) -> tuple[str, ...]:
    """What the numbers say, whatever the module: each relation that turns `expected` into `got`, the simplest first.
    Empty where none does, or where there are too few elements to tell."""
    a, b = canonical(expected), canonical(got)
    if a.shape != b.shape:
        if a.size == b.size:
            placed = arranged(b, a)
            return () if placed is None else plain_causes(a, placed, inputs, unit)
        return (f"shape {list(b.shape)} in place of {list(a.shape)}",)
    if a.dtype.kind != "f" or b.dtype.kind != "f" or not a.size or alike(a, b, unit):
        return ()
    if not np.any(b):
        return ("all zeros",)
    if np.isnan(b).all():
        return ()
    unit = max(1e-15, min(unit, UNEXPLAINED * distance(a, b)))
    for test in (_factor, _offset, _identity, _order, _rounding, _clip, _function, _axis):
        found = list(test(a, b, inputs, unit))
        if found:
            return tuple(found)
    return ()


def _factor(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    if np.count_nonzero(a) < 3:
        return
    ratio = float(np.vdot(a, b) / np.vdot(a, a))
    if not np.isfinite(ratio) or ratio == 0.0 or not alike(a * ratio, b, unit):
        return
    if abs(ratio + 1.0) < 1e-6:
        yield "the sign is reversed"
        return
    yield f"a constant factor of {ratio:.6g}{_known_factor(ratio, [a, *inputs])}"


def _known_factor(ratio: float, arrays: Sequence[Array]) -> str:
    sizes = {size for array in arrays for size in array.shape if size > 1}
    for size in sorted(sizes):
        for value, text in ((size**0.5, f"the root of a size, {size}"), (float(size), "a size")):
            if abs(ratio - value) < 1e-6 * value:
                return f" ({text})"
            if abs(ratio * value - 1.0) < 1e-6:
                return f" (one over {text}{'' if text != 'a size' else f', {size}'})"
    return ""


def _offset(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    if a.size < 4:
        return
    shift = float(np.median(b - a))
    if np.isfinite(shift) and shift != 0.0 and alike(a + shift, b, unit):
        yield f"a constant offset of {shift:.6g}"


def _identity(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    for index, array in enumerate(inputs):
        fits = array.size == b.size and array.size > 2 and array.dtype.kind == "f"
        if fits and alike(b, canonical(array).reshape(b.shape), unit):
            yield f"the output is its input{'' if len(inputs) == 1 else f' {index}'} (identity)"


def _order(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    left, right = np.sort(np.ravel(a)), np.sort(np.ravel(b))
    if a.size < 3 or not alike(left, right, unit) or left[0] == left[-1]:
        return
    for axis in range(a.ndim):
        if alike(np.flip(a, axis), b, unit):
            yield f"axis {axis} is reversed"
            return
        for shift in range(1, min(a.shape[axis], 64)):
            if alike(np.roll(a, shift, axis), b, unit):
                size = a.shape[axis]
                yield f"axis {axis} is shifted by {shift if shift <= size // 2 else shift - size}"
                return
    for one in range(a.ndim):
        for two in range(one + 1, a.ndim):
            if a.shape[one] == a.shape[two] and alike(np.swapaxes(a, one, two), b, unit):
                yield f"axes {one} and {two} are swapped"
                return
    where = [axis for axis in range(a.ndim) if _moved_along(a, b, axis, unit)]
    if len(where) == 1:
        yield f"permuted elements: axis {where[0]} is in another order"
        return
    yield "permuted elements (layout): the same numbers in another order"


def _moved_along(a: Array, b: Array, axis: int, unit: float) -> bool:
    """Whether `b` is `a` with the entries along one axis in another order, the same everywhere."""
    left, right = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (a, b))
    taken: set[int] = set()
    for row in right:
        match = [i for i in range(len(left)) if i not in taken and alike(left[i], row, unit)]
        if not match:
            return False
        taken.add(match[0])
    return True


def _rounding(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    for name, bits in (("float32", 23), ("float16", 10), ("bfloat16", 7)):
        if np.array_equal(rounded(a, bits), b):
            yield f"rounded to {name}: a cast that the original does not have"
        elif np.array_equal(rounded(b, bits), a) and bits < 23:
            yield f"not rounded to {name}: a cast is missing"


def rounded(array: Array, bits: int) -> Array:
    """To a significand of `bits` bits after the point, ties to even."""
    mantissa, exponent = np.frexp(array)
    scale = 2.0 ** (bits + 1)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent)


def _clip(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    same = np.abs(a - b) <= unit * np.maximum(scale_of(a), 1e-300)
    if same.all() or not same.any():
        return
    left, right = a[~same], b[~same]
    if np.ptp(left) > 0.0 and np.ptp(right) <= unit * max(abs(float(right[0])), 1e-300):
        value = float(right[0])
        if np.all(left > value) and np.all(b <= value + abs(value) * unit):
            yield f"clipped to at most {value:.6g}"
        elif np.all(left < value) and np.all(b >= value - abs(value) * unit):
            yield f"clipped to at least {value:.6g}"
        elif left.size > 1:
            yield f"{value:.6g} in place of {left.size} of {a.size} elements"


def _function(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    with np.errstate(all="ignore"):
        for text, value in (
            ("the logarithm of what it should be", np.log(a)), ("the exponential of what it should be", np.exp(a)),
            ("the magnitude of what it should be", np.abs(a)), ("the square of what it should be", a * a),
            ("the root of what it should be", np.sqrt(a)), ("one over what it should be", 1.0 / a),
        ):  # fmt: skip
            if np.isfinite(value).all() and alike(value, b, unit):
                yield text


def _axis(a: Array, b: Array, inputs: Sequence[Array], unit: float) -> Iterator[str]:
    """An offset or a factor that depends on one axis alone, or a difference that is confined to some of its entries."""
    for axis in range(a.ndim):
        size = a.shape[axis]
        if not 1 < size < a.size:
            continue
        left, right = (np.moveaxis(x, axis, 0).reshape(size, -1) for x in (a, b))
        if left.shape[1] < 2:
            continue
        shift = np.median(right - left, axis=1, keepdims=True)
        if alike(left + shift, right, unit):
            yield f"an offset for each entry of axis {axis}, {_listed(shift)}: a bias, or a mean"
            return
        with np.errstate(all="ignore"):
            factor = np.sum(left * right, axis=1, keepdims=True) / np.sum(left * left, axis=1, keepdims=True)
        if np.isfinite(factor).all() and alike(left * factor, right, unit):
            yield f"a factor for each entry of axis {axis}, {_listed(factor)}: a scale"
            return
    for axis in range(a.ndim):
        differs = [i for i in range(a.shape[axis]) if not alike(np.take(a, i, axis), np.take(b, i, axis), unit)]
        if len(differs) * 2 <= a.shape[axis]:
            shown = ", ".join(map(str, differs[:4])) + (", ..." if len(differs) > 4 else "")
            yield f"only entries {shown} of axis {axis} differ ({len(differs)} of {a.shape[axis]})"
            return


def _listed(values: Array) -> str:
    flat = np.ravel(values)
    return ", ".join(f"{v:.4g}" for v in flat[:3]) + (", ..." if flat.size > 3 else "")
