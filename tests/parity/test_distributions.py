"""Each distribution is what it is for, determined by its seed, and in any shape."""

from __future__ import annotations

import numpy as np
import pytest

from isomorph.parity.drawing.distributions import DISTRIBUTIONS, FINITE, draw, into_range
from isomorph.parity.drawing.strategies import Contract, InputSpec, materialise, round_to
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

DTYPES = ("float32", "float64", "float16", "bfloat16")


def drawn(distribution: str, *shape: int, seed: int = 0) -> Array:
    return draw(distribution, np.random.default_rng(seed), shape)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_replayable_and_finite_but_for_the_special_one(distribution: str, dtype: str) -> None:
    contract = Contract(
        tuple(InputSpec(f"x{n}", dtype, dims) for n, dims in enumerate([(4, 6), (), (1,), (0, 3), (2, 3, 2)]))
    )
    case = Case(distribution, 3)
    first, again, other = (materialise(contract, c) for c in (case, case, Case(distribution, 4)))
    for index, (a, b) in enumerate(zip(first, again, strict=True)):
        assert np.array_equal(a, b, equal_nan=True)
        assert a.shape == contract.shape(contract.inputs[index], case)
        assert np.isfinite(a).all() or distribution == "special"
        assert np.array_equal(round_to(a, dtype), a, equal_nan=True)
        assert a.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(first, other, strict=True))


def test_the_simplest_come_first_and_special_last() -> None:
    assert DISTRIBUTIONS[:2] == ("zeros", "constant")
    assert DISTRIBUTIONS[-1] == "special"
    assert DISTRIBUTIONS[:-1] == FINITE
    assert {"normal", "mixed", "grid", "large", "edge"} < set(FINITE)
    with pytest.raises(ValueError, match="unknown distribution 'nomal'; known: zeros, "):
        drawn("nomal", 3)


def test_what_the_measured_ones_are_for() -> None:
    mixed = drawn("mixed", 40, 40)
    assert (mixed == 0).mean() > 0.05
    assert np.unique(mixed).size < mixed.size * 0.95  # ties
    grid = drawn("grid", 40, 40)
    assert np.array_equal(grid * 2, np.round(grid * 2))
    assert {-1.0, 0.0, 1.0} <= set(grid.ravel())
    edge = drawn("edge", 200, 8)
    assert (edge == 0).all(axis=1).any()
    assert ((edge == edge[:, :1]).all(axis=1) & (edge != 0).all(axis=1)).any()
    assert np.abs(edge).max() > 1000
    assert np.abs(drawn("large", 100)).max() > 10
    assert 0.8 < drawn("normal", 100, 100).std() < 1.2


def test_what_the_others_are_for() -> None:
    zeros = drawn("zeros", 50)
    assert not zeros.any()
    assert 0 < np.signbit(zeros).sum() < 50
    assert np.unique(drawn("constant", 5, 5)).size == 1
    assert {drawn("constant", 2, seed=seed)[0] for seed in range(40)} >= {1.0, -1.0, 0.5, 3.0}
    onehot = drawn("onehot", 6, 3, 5)
    assert (onehot.sum(-1) == 1).all()
    assert set(onehot.ravel()) == {0.0, 1.0}
    assert set(drawn("integers", 500)) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert np.unique(drawn("ties", 30, 30)).size == 3
    assert 0.02 < (drawn("sparse", 50, 50) != 0).mean() < 0.25
    wide = np.abs(drawn("wide", 5000))
    assert np.log10(wide.min()) < -7.5
    assert np.log10(wide.max()) > 3.5
    tiny = drawn("tiny", 5000).astype(np.float32)
    subnormal = (np.abs(tiny) < np.finfo(np.float32).tiny) & (tiny != 0)
    assert 0.2 < subnormal.mean() < 0.8
    special = drawn("special", 40, 40)
    assert np.isnan(special).any()
    assert np.isposinf(special).any()
    assert np.isneginf(special).any()
    assert np.isfinite(special).mean() > 0.9


def test_equal_channels_along_either_axis() -> None:
    along = set()
    for seed in range(20):
        x = drawn("equal_channels", 3, 4, 5, seed=seed)
        assert np.unique(x).size > 2
        along.add(("first" if (x == x[:, :1]).all() else "") + ("last" if (x == x[..., :1]).all() else ""))
    assert along == {"first", "last"}


@pytest.mark.parametrize("distribution", FINITE)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (None, 0.5), (2.0, None), (3.0, 3.0)])
def test_ranges_are_kept_to(distribution: str, low: float | None, high: float | None) -> None:
    rng = np.random.default_rng(0)
    values = into_range(draw(distribution, rng, (6, 30)), distribution, low, high, rng)
    assert values.shape == (6, 30)
    assert low is None or values.min() >= low
    assert high is None or values.max() <= high
    if low is not None and high is not None and distribution in ("normal", "mixed", "grid", "wide", "ties"):
        assert (values.min(), values.max()) == (low, high)


def test_a_range_keeps_ties_and_zeros() -> None:
    rng = np.random.default_rng(0)
    grid = into_range(draw("grid", rng, (400,)), "grid", 0.0, 1.0, rng)
    assert np.unique(grid).size == 13
    assert not into_range(draw("zeros", rng, (9,)), "zeros", -1.0, 5.0, rng).any()
    assert np.unique(into_range(draw("constant", rng, (9,)), "constant", 0.0, 5.0, rng)).size == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_keeps_nan_and_infinities_and_saturates_what_is_finite(dtype: str) -> None:
    rounded = round_to(np.array([np.nan, np.inf, -np.inf, 1e5, -0.0]), dtype)
    assert np.isnan(rounded[0])
    assert rounded[1:3].tolist() == [np.inf, -np.inf]
    assert np.isfinite(rounded[3:]).all()
    assert np.signbit(rounded[4])
