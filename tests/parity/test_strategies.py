"""Drawing inputs: legal, replayable, varied."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from isomorph.parity import strategies
from isomorph.parity.strategies import (
    Contract,
    InputSpec,
    evaluate_dim,
    materialise,
    plan,
    round_to,
    solve_sizes,
    spec_of,
)
from isomorph.parity.verdict import Case

IMAGE = np.zeros((2, 3, 8, 10), np.float32)


def test_the_plan_has_the_documented_proportions() -> None:
    contract = Contract((InputSpec("x", "float32", (2, 3)),))
    counts = Counter(case.distribution for case in plan(contract, 24, 0, "eval"))
    assert counts == {"normal": 4, "mixed": 8, "grid": 4, "large": 4, "edge": 4}
    assert len({case.seed for case in plan(contract, 24, 0, "eval")}) == 24
    assert [case.distribution for case in plan(contract, 3, 0, "eval")] == ["normal", "mixed", "grid"]
    assert len(plan(contract, 50, 0, "eval")) == 50


def test_a_plan_is_determined_by_seed_and_mode() -> None:
    contract = Contract((InputSpec("x", "float32", ("b",)),), (("b", 2),))
    assert plan(contract, 5, 1, "train") == plan(contract, 5, 1, "train")
    assert plan(contract, 5, 1, "train") != plan(contract, 5, 2, "train")
    assert {c.sizes for c in plan(contract, 5, 1, "train")} == {c.sizes for c in plan(contract, 5, 1, "eval")}


def test_few_shapes_the_example_first_and_within_bounds() -> None:
    specs = (spec_of("x", "float32", ("b", 3, "h", "2*w"), IMAGE, None),)
    contract = Contract(specs, solve_sizes(specs), {"h": (8, 9), "w": (4, None)})
    cases = plan(contract, 24, 0, "eval")
    assert dict(cases[0].sizes) == {"b": 2, "h": 8, "w": 5}
    assert len({case.sizes for case in cases}) == 3
    for case in cases:
        sizes = dict(case.sizes)
        assert 8 <= sizes["h"] <= 9
        assert sizes["w"] >= 4
        assert materialise(contract, case)[0].shape == (sizes["b"], 3, sizes["h"], 2 * sizes["w"])


@pytest.mark.parametrize(
    ("text", "value"), [("2*s", 6), ("s + 1", 4), ("(s - 1)//2", 1), ("s**2 % 4", 1), ("-s + 7", 4)]
)
def test_dim_expressions(text: str, value: int) -> None:
    assert evaluate_dim(text, {"s": 3}) == value


def test_dim_expressions_that_are_none() -> None:
    for text in ("s.real", "f(s)", "s if s else 1", "'s'"):
        with pytest.raises(ValueError, match="dim expression"):
            evaluate_dim(text, {"s": 3})
    with pytest.raises(KeyError):
        evaluate_dim("t", {"s": 3})


@pytest.mark.parametrize("distribution", strategies.DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_floats_are_finite_rounded_and_replayable(distribution: str, dtype: str) -> None:
    contract = Contract((InputSpec("x", dtype, (4, 6)), InputSpec("y", dtype, ())))
    case = Case(distribution, 3)
    first, again = materialise(contract, case), materialise(contract, case)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
        assert np.isfinite(a).all()
        assert np.array_equal(round_to(a, dtype), a)
        assert a.dtype == (np.float64 if dtype == "float64" else np.float32)


def test_what_the_distributions_are_for() -> None:
    rng = np.random.default_rng(0)
    mixed = strategies.draw("mixed", rng, (40, 40))
    assert (mixed == 0).mean() > 0.05
    assert np.unique(mixed).size < mixed.size * 0.95  # ties
    grid = strategies.draw("grid", rng, (40, 40))
    assert np.array_equal(grid * 2, np.round(grid * 2))
    assert {-1.0, 0.0, 1.0} <= set(grid.ravel())
    edge = strategies.draw("edge", rng, (200, 8))
    assert (edge == 0).all(axis=1).any()
    assert ((edge == edge[:, :1]).all(axis=1) & (edge != 0).all(axis=1)).any()
    assert np.abs(edge).max() > 1000
    assert np.abs(strategies.draw("large", rng, (100,))).max() > 10


def test_integers_stay_in_the_table_or_in_the_examples_range() -> None:
    ids = np.array([[3, 7]], np.int64)
    table = Contract((spec_of("ids", "int64", (50, 20), ids, 11),))
    drawn = materialise(table, Case("normal", 0))[0]
    assert (drawn.min(), drawn.max()) == (0, 10)
    ranged = Contract((spec_of("ids", "int64", (50, 20), ids, None),))
    drawn = materialise(ranged, Case("normal", 0))[0]
    assert (drawn.min(), drawn.max()) == (3, 7)
    assert np.array_equal(
        materialise(Contract((spec_of("n", "int64", (1, 2), ids, None),)), Case("normal", 0, (), "example"))[0], ids
    )


def test_masks_leave_no_row_without_a_position() -> None:
    ones = np.ones((2, 5), np.int64)
    drawn = materialise(Contract((spec_of("mask", "int64", (30, 5), ones, None),)), Case("normal", 0))[0]
    assert set(drawn.ravel()) == {0, 1}
    assert (drawn[:, 0] == 1).all()
    padding = np.array([[False, False, True], [False, True, True]])
    drawn = materialise(Contract((spec_of("padding", "bool", (30, 3), padding, None),)), Case("normal", 0))[0]
    assert not drawn[:, 0].any()
    assert drawn.any()


def test_an_additive_mask_is_kept() -> None:
    mask = np.array([[0.0, -np.inf]], np.float32)
    contract = Contract((spec_of("mask", "float32", (1, 2), mask, None),))
    assert np.array_equal(materialise(contract, Case("edge", 5))[0], mask)
