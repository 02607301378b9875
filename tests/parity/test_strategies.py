"""Drawing inputs: legal, replayable, varied."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from isomorph.parity.drawing import strategies
from isomorph.parity.drawing.strategies import (
    Contract,
    InputSpec,
    evaluate_dim,
    materialise,
    plan,
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


def test_both_ends_of_a_table_are_asked_for_in_every_draw() -> None:
    table = Contract((spec_of("ids", "int64", (2, 5), np.array([[3, 7]], np.int64), 10_000),))
    for seed in range(20):
        (ids,) = materialise(table, Case("mixed", seed))
        assert {0, 9_999} <= set(ids.ravel().tolist())
        assert len(set(ids.ravel().tolist())) > 4


def test_integers_follow_the_distribution_where_it_means_something() -> None:
    table = Contract((spec_of("ids", "int64", (4, 25), np.array([[3, 7]], np.int64), 1000),))
    kinds = {
        kind: len(np.unique(materialise(table, Case(kind, 4))[0])) for kind in ("zeros", "constant", "ties", "normal")
    }
    assert kinds["zeros"] == kinds["constant"] == 1
    assert kinds["ties"] == 2
    assert kinds["normal"] > 50
    assert not materialise(table, Case("zeros", 4))[0].any()


def test_declared_ranges_narrow_what_is_drawn() -> None:
    example = np.array([[0.25, 0.5]], np.float32)
    spec = spec_of("pixels", "float32", (3, 50), example, None, values=(0.0, 255.0))
    for distribution in strategies.DISTRIBUTIONS[:-1]:
        (pixels,) = materialise(Contract((spec,)), Case(distribution, 1))
        assert pixels.min() >= 0
        assert pixels.max() <= 255
    (pixels,) = materialise(Contract((spec,)), Case("normal", 1))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert 60 < np.median(pixels) < 190
    ids = spec_of("ids", "int64", (50,), np.array([3, 7], np.int64), 11, values=(2.0, 99.0))
    (drawn,) = materialise(Contract((ids,)), Case("normal", 0))
    assert (drawn.min(), drawn.max()) == (2, 10)


def test_masks_leave_no_row_without_a_position() -> None:
    ones = np.ones((2, 5), np.int64)
    drawn = materialise(Contract((spec_of("mask", "int64", (30, 5), ones, None),)), Case("normal", 0))[0]
    assert set(drawn.ravel()) == {0, 1}
    assert (drawn[:, 0] == 1).all()
    padding = np.array([[False, False, True], [False, True, True]])
    drawn = materialise(Contract((spec_of("padding", "bool", (30, 3), padding, None),)), Case("normal", 0))[0]
    assert not drawn[:, 0].any()
    assert drawn.any()


def kind_of(mask: np.ndarray) -> str:
    """What a 0/1 mask is."""
    if mask.all():
        return "full"
    if not mask.any():
        return "empty"
    return "ragged" if (np.sort(mask, -1)[..., ::-1] == mask).all() else "random"


def test_masks_are_full_ragged_random_and_empty_only_where_that_may_be() -> None:
    led = Contract((spec_of("mask", "int64", (6, 9), np.ones((2, 5), np.int64), None),))
    kinds = Counter(kind_of(materialise(led, Case("normal", seed))[0]) for seed in range(200))
    assert set(kinds) == {"full", "ragged", "random"}
    assert min(kinds.values()) >= 15
    free = Contract((spec_of("flag", "bool", (6, 9), np.array([[True, False], [False, True]]), None),))
    kinds = Counter(kind_of(materialise(free, Case("normal", seed))[0]) for seed in range(200))
    assert set(kinds) == {"full", "ragged", "random", "empty"}


def test_padding_masks_are_ragged_the_other_way_round() -> None:
    """True for padding, as in torch: no row begins with it."""
    padding = np.array([[False, False, True], [False, True, True]])
    contract = Contract((spec_of("padding", "bool", (6, 9), padding, None),))
    kinds = Counter(kind_of(~materialise(contract, Case("normal", seed))[0]) for seed in range(200))
    assert set(kinds) == {"full", "ragged", "random"}


def test_an_additive_mask_is_kept() -> None:
    mask = np.array([[0.0, -np.inf]], np.float32)
    contract = Contract((spec_of("mask", "float32", (1, 2), mask, None),))
    assert np.array_equal(materialise(contract, Case("edge", 5))[0], mask)
