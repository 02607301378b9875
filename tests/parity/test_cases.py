"""What a search draws: the measured shares, the sizes away from the example, and the same for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings

from isomorph.parity.drawing.cases import SEEDS, cases
from isomorph.parity.drawing.engine import explore
from isomorph.parity.drawing.strategies import (
    STRATA,
    Contract,
    InputSpec,
    counts,
    materialise,
    order,
    solve_sizes,
    variants,
)
from isomorph.parity.verdict import Case

from .searches import CONTRACT, FIXED, drawn


def test_the_shares_are_the_measured_ones_and_half_of_each_stratum_is_its_own_distribution() -> None:
    seen = drawn(examples=24)
    strata = order(24)
    assert Counter(strata) == {"normal": 4, "mixed": 8, "grid": 4, "large": 4, "edge": 4} == counts(24)
    for stratum in STRATA:
        kinds = [case.distribution for case, of in zip(seen, strata, strict=True) if of == stratum]
        assert set(kinds) <= set(STRATA[stratum])
        assert 2 * kinds.count(stratum) >= len(kinds)
    assert [case.distribution for case in drawn(examples=3)] == ["normal", "mixed", "grid"]


def test_every_distribution_comes_up() -> None:
    assert {case.distribution for case in drawn(examples=200)} == {k for s, ks in STRATA.items() for k in ks} - {
        "special"
    }


def test_the_examples_own_sizes_first_then_others_at_once() -> None:
    seen = drawn(examples=6)
    assert seen[0] == Case("normal", 0, (("b", 5), ("s", 7)))
    assert len({case.sizes for case in seen}) == 6
    assert len({case.sizes for case in drawn(examples=60)}) == 6
    assert len({case.sizes for case in drawn(examples=60, shapes=12)}) == 12


def test_seeds_are_small_and_all_different_enough() -> None:
    seen = drawn(examples=200, contract=FIXED)
    assert all(0 <= case.seed < SEEDS for case in seen)
    assert len({case.seed for case in seen}) > 180
    assert len(set(seen)) == 200


def test_a_search_is_determined_by_its_seed() -> None:
    assert drawn(examples=40, seed=3) == drawn(examples=40, seed=3)
    assert drawn(examples=40, seed=3) != drawn(examples=40, seed=4)
    other = drawn(examples=40, seed=3, salt="train")
    assert other != drawn(examples=40, seed=3)
    assert {case.sizes for case in other} == {case.sizes for case in drawn(examples=40, seed=3)}


def test_a_search_is_the_same_in_another_process() -> None:
    """Whatever modules are loaded there, and with whatever hash seed."""
    code = "from tests.parity.test_cases import drawn; print([str(c) for c in drawn(examples=30, seed=5)])"
    ran = [
        subprocess.run(
            [sys.executable, "-c", f"{more}\n{code}"], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        ).stdout
        for seed, more in (("1", ""), ("2", "import isomorph.parity.cli_convert, isomorph.convert.ir"))
    ]  # fmt: skip
    assert ran[0] == ran[1] == f"{[str(case) for case in drawn(examples=30, seed=5)]}\n"


def test_other_strata_and_the_like() -> None:
    seen = drawn(examples=5, strata=("special",), like=Case("", 0, source="example", weights="randomised"))
    assert {(c.distribution, c.source, c.weights) for c in seen} == {("special", "example", "randomised")}


@settings(max_examples=50, database=None)
@given(cases(CONTRACT))
def test_cases_are_a_strategy_of_its_own(case: Case) -> None:
    (x,) = materialise(CONTRACT, case)
    sizes = dict(case.sizes)
    assert x.shape == (sizes["b"], sizes["s"], 4)
    assert 1 <= sizes["b"] <= 20
    assert 2 <= sizes["s"] <= 20
    assert np.isfinite(x).all()


def test_sizes_stay_within_bounds_and_affordable() -> None:
    image = InputSpec("x", "float32", ("b", 3, "h", "w"), example=np.zeros((2, 3, 224, 224), np.float32))
    contract = Contract((image,), solve_sizes([image]), {"b": (1, 4), "h": (32, None), "w": (32, 500)})
    found = [dict(sizes) for sizes in variants(contract, 0, 20)]
    assert found[0] == {"b": 2, "h": 224, "w": 224}
    for sizes in found:
        assert 1 <= sizes["b"] <= 4
        assert sizes["h"] >= 32
        assert 32 <= sizes["w"] <= 500
        assert sizes["b"] * sizes["h"] * sizes["w"] <= 4 * 2 * 224 * 224
    for name in ("b", "h", "w"):
        assert len({sizes[name] for sizes in found}) >= 3
    assert any(s["h"] == s["w"] != 224 for s in found), "dims that are equal stay equal when all move"
    assert any(s["h"] != 224 and s["b"] == 2 for s in found), "one moves alone"


def test_sizes_that_no_input_can_have_are_not_drawn() -> None:
    spec = InputSpec("x", "float32", ("s", "s - 3"), example=np.zeros((5, 2), np.float32))
    contract = Contract((spec,), solve_sizes([spec]))
    assert all(dict(sizes)["s"] > 3 for sizes in variants(contract, 0, 10))
    found = explore(contract, lambda case: "wrong" if all(materialise(contract, case)[0].shape) else None, examples=6)
    assert found.case == Case("zeros", 0, (("s", 4),))
