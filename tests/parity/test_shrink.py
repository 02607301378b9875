"""Values made simple: the minimal result is asserted, not only that one exists."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from isomorph.parity.drawing.shrink import shrink_arrays
from isomorph.parity.drawing.strategies import InputSpec
from isomorph.parity.tolerance import Array

Arrays = tuple[Array, ...]


def normal(*shape: int, seed: int = 0, scale: float = 3.0) -> Array:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def shrunk(fails: Callable[..., bool], *arrays: Array, runs: int = 500, **options: object) -> list[Array]:
    found, used = shrink_arrays(arrays, lambda a: bool(fails(*a)), runs, **options)  # type: ignore[arg-type]
    assert used <= runs
    assert fails(*found)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in arrays]
    return list(found)


def values(array: Array) -> list[float]:
    """What is not zero, sorted."""
    return sorted(array[array != 0].tolist())


MINIMA: dict[str, tuple[Callable[[Array], bool], list[float]]] = {
    "always": (lambda x: True, []),
    "any above one": (lambda x: (np.abs(x) > 1).any(), [2.0]),
    "any below minus one": (lambda x: (x < -1).any(), [-2.0]),
    "any nonzero": (lambda x: (x != 0).any(), [1.0]),
    "above 2.3": (lambda x: (x > 2.3).any(), [3.0]),
    "two nonzero": (lambda x: (x != 0).sum() >= 2, [1.0, 1.0]),
    "both signs": (lambda x: x.min() < 0 < x.max(), [-1.0, 1.0]),
    "one place": (lambda x: x.reshape(-1)[17] != 0, [1.0]),
    "no integer": (lambda x: (x != np.rint(x)).any(), [0.5]),
    "a nonzero tie": (lambda x: max(np.unique(x[x != 0], return_counts=True)[1], default=0) > 1, [1.0, 1.0]),
    "small": (lambda x: ((np.abs(x) < 0.1) & (x != 0)).any(), [0.05]),
    "sum": (lambda x: np.abs(x).sum() > 7, [1.0] * 8),
}


@pytest.mark.parametrize("name", MINIMA)
def test_minimum(name: str) -> None:
    fails, expected = MINIMA[name]
    start = normal(6, 7)
    start[0, :3] = 2.75, 2.75, 0.0532
    (found,) = shrunk(fails, start)
    assert values(found) == pytest.approx(expected), found


def test_one_element_among_many_costs_some_tens_of_runs() -> None:
    start = normal(100_000)
    start[77_123] = 37.7
    found, used = shrink_arrays((start,), lambda a: bool(a[0][77_123] > 30), 200)
    assert values(found[0]) == [31.0]
    assert np.flatnonzero(found[0]).tolist() == [77_123]
    assert used < 60


def test_two_far_elements_are_both_found() -> None:
    found, used = shrink_arrays((normal(300, 300),), lambda a: bool((a[0][3, 5] != 0) & (a[0][280, 299] != 0)), 200)
    assert np.argwhere(found[0]).tolist() == [[3, 5], [280, 299]]
    assert used < 120


def test_several_inputs_are_put_to_rest_one_by_one() -> None:
    x, y, z = shrunk(lambda x, y, z: bool(y.max() > 2.2), normal(4, 5), normal(3, seed=1), normal(2, 2, seed=2))
    assert not x.any()
    assert not z.any()
    assert values(y) == [3.0]


def test_integers_go_to_their_lowest_value_and_masks_to_the_examples() -> None:
    example = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    specs = (
        InputSpec("ids", "int64", (2, 4), low=5, high=99),
        InputSpec("mask", "int64", (2, 4), low=0, high=1, lead=1, example=example),
        InputSpec("flag", "bool", (2,), lead=None, example=np.array([True, False])),
        InputSpec("kept", "float32", (2,), kept=True),
    )
    ids = np.random.default_rng(0).integers(5, 100, (2, 4))
    ids[1, 2] = 77
    mask = np.array([[1, 0, 0, 1], [1, 1, 1, 1]])
    kept = np.array([1.5, -np.inf], np.float32)
    got = shrunk(
        lambda i, m, f, k: bool(i.max() >= 40) and bool(m[0, 1] == 0),
        ids,
        mask,
        np.array([False, False]),
        kept,
        specs=specs,
    )
    assert sorted(got[0].ravel().tolist()) == [5] * 7 + [40]
    assert got[1].tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert got[2].tolist() == [True, False]
    assert np.array_equal(got[3], kept)


def test_a_declared_range_is_kept_to() -> None:
    spec = InputSpec("pixels", "float32", (8,), low=10.0, high=200.0)
    start = np.linspace(10, 200, 8).astype(np.float32)
    seen: list[Array] = []

    def fails(x: Array) -> bool:
        seen.append(x)
        return bool((x > 55.5).any())

    (found,) = shrunk(fails, start, specs=(spec,))
    assert sorted(found.tolist()) == [10.0] * 7 + [56.0]
    assert all(x.min() >= 10 and x.max() <= 200 for x in seen)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_stay_representable(dtype: str) -> None:
    from isomorph.parity.drawing.strategies import round_to

    spec = InputSpec("x", dtype, (5,))
    start = round_to(normal(5), dtype)
    (found,) = shrunk(
        lambda x: bool(((np.abs(x) > 0.31) & (np.abs(x) < 0.49)).any()),
        np.append(start[:4], round_to(np.array([0.4123]), dtype)).astype(np.float32),
        specs=(spec,),
    )
    assert np.array_equal(found, round_to(found, dtype))
    assert len(values(found)) == 1
    assert values(found)[0] == pytest.approx(0.4, rel=1e-2)


def test_finite_arrays_stay_finite_and_a_nan_that_matters_stays() -> None:
    start = normal(30)
    start[7], start[20] = np.nan, np.inf
    (found,) = shrunk(lambda x: bool(np.isnan(x).any()), start)
    assert np.isnan(found[7])
    assert values(found[np.isfinite(found)]) == []
    assert np.isfinite(found[20])


def test_a_negative_zero_that_matters_is_alone() -> None:
    start = np.array([0.0, -0.0, 3.0, -0.0, 0.0], np.float32)
    (found,) = shrunk(lambda x: bool((np.signbit(x) & (x == 0)).any()), start)
    assert not found.any()
    assert np.signbit(found).sum() == 1


def test_no_more_than_the_budget_is_used_and_the_result_fails() -> None:
    calls = []

    def fails(arrays: Arrays) -> bool:
        calls.append(1)
        return bool(np.abs(arrays[0]).sum() > 100)

    for runs in (0, 1, 7, 40):
        calls.clear()
        found, used = shrink_arrays((normal(400),), fails, runs)
        assert used == len(calls) <= runs
        assert np.abs(found[0]).sum() > 100


def test_nothing_is_run_after_the_deadline() -> None:
    start = normal(40)
    found, used = shrink_arrays((start,), lambda a: True, 100, deadline=time.monotonic())
    assert used == 0
    assert np.array_equal(found[0], start)


def test_where_most_elements_matter_little_is_spent_on_halves() -> None:
    start = normal(4096)
    found, used = shrink_arrays((start,), lambda a: bool((a[0] != 0).all()), 500)
    assert used < 150
    assert set(found[0].tolist()) == {1.0}


def test_deterministic_and_not_fooled_by_a_predicate_that_is_not_monotone() -> None:
    def fails(arrays: Arrays) -> bool:
        return int(np.count_nonzero(arrays[0])) % 3 == 2

    start = normal(50)
    first, second = (shrink_arrays((start,), fails, 300) for _ in range(2))
    assert np.array_equal(first[0][0], second[0][0])
    assert first[1] == second[1]
    assert fails(first[0])
    assert np.count_nonzero(first[0][0]) in (2, 5)


def test_one_minimal() -> None:
    """No single element of the result can be put to rest, whatever the predicate."""
    for seed in range(20):
        weights = np.random.default_rng(seed).standard_normal(24)

        def fails(x: Array, weights: Array = weights) -> bool:
            return bool(np.abs(weights @ x) > 6)

        if not fails(normal(24, seed=seed)):
            continue
        (found,) = shrunk(fails, normal(24, seed=seed), runs=2000)
        for place in np.flatnonzero(found):
            less = np.array(found)
            less[place] = 0
            assert not fails(less), (seed, found)
