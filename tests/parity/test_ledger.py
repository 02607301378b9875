"""What findings add up to: votes on precision and kinks, what is excused, what an unsteady original leaves open."""

from __future__ import annotations

import pytest

from isomorph.parity.compare import Finding
from isomorph.parity.ledger import Ledger
from isomorph.parity.verdict import Case


def settled(outcome: str, *distributions: str, strict: bool = True, stage: str = "structure") -> Ledger:
    ledger = Ledger(strict)
    for seed, name in enumerate(distributions):
        finding = Finding(outcome, error=1.0, scale=1.0)
        ledger.record(stage, "output", "0", "eval", "float64", Case(name, seed), finding)
    ledger.settle()
    return ledger


@pytest.mark.parametrize(
    ("distributions", "rejected"),
    [
        (("grid",), False),  # one example is no evidence of another convention
        (("edge", "constant", "sparse"), False),  # equal in exact arithmetic only: rounding decides
        (("grid", "mixed"), True),
        (("edge", "grid"), True),
    ],
)
def test_a_kink_needs_two_examples_and_a_tie_that_is_exact(distributions: tuple[str, ...], rejected: bool) -> None:
    ledger = settled("kink", *distributions)
    assert bool(ledger.mismatches) is rejected
    assert any("too few" in text for text in ledger.warnings) is not rejected


def test_others_kinks_are_warnings_until_they_show_without_ties() -> None:
    assert not settled("kink", "grid", "mixed", strict=False).mismatches
    assert settled("kink", "grid", strict=False).kinds == {"kink": 1}
    assert settled("kink", "normal", "large", "wide", strict=False).mismatches


def test_a_value_needs_one_example_and_a_precision_two() -> None:
    assert settled("value", "edge").mismatches
    assert not settled("precision", "normal", stage="precision").mismatches
    assert settled("precision", "normal", "large", stage="precision").mismatches


def test_where_the_original_differs_from_itself_no_value_is_a_mismatch() -> None:
    ledger = Ledger()
    ledger.unsteady.add(("eval", "output", "0"))
    assert ledger.steadied(Finding("value"), "output", "0", "eval").outcome == "inconclusive"
    assert ledger.steadied(Finding("value"), "output", "0", "train").outcome == "value"
    assert ledger.steadied(Finding("shape"), "output", "0", "eval").outcome == "shape"
