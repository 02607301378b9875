"""A verdict through JSON and back: nothing is lost, and what is no verdict is refused in one line."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from isomorph.parity.report.restore import gaps, number, restore
from isomorph.parity.verdict import Verdict
from tests.report import nasty, verdicts


def through_json(verdict: Verdict) -> Any:
    return json.loads(json.dumps(verdict.to_dict(), allow_nan=False))


@pytest.mark.parametrize("make", [verdicts.good, verdicts.bad])
def test_nothing_is_lost(make: Callable[[], Verdict]) -> None:
    verdict = make()
    verdict = replace(verdict, environment=dict(verdict.environment))
    assert restore(through_json(verdict)) == verdict


def test_figures_that_are_no_numbers_come_back_as_such() -> None:
    verdict = restore(through_json(nasty.verdict()))
    assert verdict is not None
    (mismatch,) = verdict.mismatches
    assert math.isnan(mismatch.error)
    assert (mismatch.tolerance, mismatch.got, mismatch.position) == (math.inf, -math.inf, (0,))
    assert all(math.isnan(check.worst) and check.ratio == math.inf for check in verdict.checks)


def test_a_field_of_another_version_is_no_obstacle() -> None:
    said = through_json(verdicts.good())
    said["new"] = said["checks"][0]["new"] = {"of": "a later version"}
    del said["checks"][0]["ratio"], said["distributions"]
    verdict = restore(said)
    assert verdict is not None
    assert (verdict.checks[0].ratio, verdict.distributions) == (None, ())


def test_no_verdict_is_none() -> None:
    assert restore(None) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("checks",), {}),
        (("checks", 0), "a text"),
        (("checks", 0, "worst"), "much"),
        (("checks", 0, "worst"), None),
        (("mismatches", 0, "position"), 3),
        (("mismatches", 0, "case", "sizes"), [["b", 1, 2]]),
        (("coverage",), []),
        (("coverage", "parameters"), ["w"]),
        (("counterexample", "inputs"), {"x": {}}),
    ],
)
def test_what_is_no_verdict(path: tuple[Any, ...], value: Any) -> None:
    said = copy.deepcopy(through_json(verdicts.bad()))
    place = said
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((ValueError, TypeError)):
        restore(said)


def test_gaps_are_those_of_the_summary() -> None:
    verdict = verdicts.good(not_checked=["this"], warnings=["that"], untested_inputs=["x"])
    assert [line.partition(":")[0] for line in gaps(verdict)] == ["not judged", "not checked", "warning"]


@pytest.mark.parametrize(
    ("said", "found"),
    [(1, 1.0), ("inf", math.inf), ("-inf", -math.inf), ("1e-3", 1e-3), (True, None), ("x", None), ([], None)],
)
def test_numbers(said: Any, found: float | None) -> None:
    assert number(said) == found
