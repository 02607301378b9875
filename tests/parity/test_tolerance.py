"""The yardstick: conditioning measured on functions whose condition is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isomorph.parity import tolerance as yardstick
from isomorph.parity.tolerance import DELTA, EPS64, FINE_DELTA, STRUCTURE_FACTOR

X = np.random.default_rng(1).standard_normal(50)


def responses(function: Callable[[np.ndarray], np.ndarray], delta: float) -> list[np.ndarray]:
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (3, X.size))
    return [function(X * (1 + delta * sign)) for sign in signs]


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e8])
def test_condition_is_the_slope(factor: float) -> None:
    def function(x: np.ndarray) -> np.ndarray:
        return np.sin(factor * x)

    moved, fine = responses(function, DELTA), responses(function, FINE_DELTA)
    slope = yardstick.condition(function(X), moved, fine)
    expected = np.abs(factor * X * np.cos(factor * X))
    large = expected > 0.1 * factor
    assert np.allclose(slope[large], expected[large], rtol=0.7)


def test_a_jump_is_not_conditioning() -> None:
    def function(x: np.ndarray) -> np.ndarray:
        return np.where(x > X, 1.0, 0.0) + x  # jumps exactly here

    moved, fine = responses(function, DELTA), responses(function, FINE_DELTA)
    assert yardstick.is_steep(function(X), moved)
    assert np.all(yardstick.condition(function(X), moved, fine) < 10)


def test_structure_tolerance_is_the_documented_formula() -> None:
    slope = np.abs(X) * 5
    scale = np.maximum(np.abs(X), np.sqrt(np.mean(X**2)))
    expected = STRUCTURE_FACTOR * (EPS64 * scale + EPS64 * slope)
    assert np.allclose(yardstick.structure_tolerance(X, slope), expected)


def test_conclusive_by_the_majority_of_elements() -> None:
    scale = yardstick.scale_of(X)
    assert yardstick.is_conclusive(X, 1e-9 * scale)
    assert not yardstick.is_conclusive(X, 1e-3 * scale)
    tolerance = 1e-9 * scale
    tolerance[:10] = 1.0
    assert yardstick.is_conclusive(X, tolerance)
    assert not yardstick.is_conclusive(np.zeros(0), np.zeros(0))


def test_precision_tolerance_grows_with_each_floor_and_with_coarser_dtypes() -> None:
    error = np.full(X.shape, 1e-9)
    base = yardstick.precision_tolerance(X, (error,), "float32")
    assert np.all(yardstick.precision_tolerance(X, (error, 100 * error), "float32") > base)
    assert np.all(yardstick.precision_tolerance(X, (error,), "float32", slope=np.full(X.shape, 1e3)) > base)
    assert np.all(yardstick.precision_tolerance(X, (error,), "float32", coarse=np.full(X.shape, 1e-3)) > base)
    assert np.all(yardstick.precision_tolerance(X, (error,), "bfloat16") > 1e3 * base)


def test_rms_ignores_what_is_not_finite() -> None:
    assert yardstick.rms(np.array([3.0, np.nan, np.inf, -3.0])) == pytest.approx(3.0)
    assert yardstick.rms(np.array([])) == yardstick.rms(np.array([np.nan])) == 0.0
    assert yardstick.rms(np.array([1e250, 1e250])) == pytest.approx(1e250)
