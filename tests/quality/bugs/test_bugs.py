"""Every planted bug is caught with default settings, by the expected difference; every honest conversion passes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from isomorph.parity.check import check
from isomorph.parity.verdict import Verdict
from tests.quality.bugs.catalogue import BUGS, Bug
from tests.quality.bugs.models import MODELS
from tests.quality.bugs.mutations import Mutation, argument, not_updated, planted, trained
from tests.quality.bugs.mutations_model import mislaid


def judged(bug: Bug) -> Verdict:
    """The verdict on a planted bug, with default settings."""
    with planted(bug.model, bug.mutation) as (net, conversion):
        return check(net, conversion)


@pytest.fixture(scope="module")
def seconds() -> Iterator[dict[str, float]]:
    """Name -> seconds, printed at the end (run with -s)."""
    taken: dict[str, float] = {}
    yield taken
    print()
    for name, each in sorted(taken.items(), key=lambda item: -item[1]):
        print(f"{each:6.2f} s  {name}")
    print(f"{sum(taken.values()):6.1f} s  in all, {len(taken)} bugs")


@pytest.mark.parametrize("model", MODELS)
def test_the_honest_conversion_passes(model: str) -> None:
    with planted(model, Mutation()) as (net, conversion):
        verdict = check(net, conversion)
    assert verdict.status == "PASS", verdict.summary()


def case(bug: Bug) -> object:
    """A bug that cannot be caught is an expected failure, with its reason."""
    marks = [pytest.mark.xfail(strict=True, reason=bug.reason)] if bug.reason else []
    return pytest.param(bug, marks=marks, id=bug.name)


@pytest.mark.parametrize("bug", [case(bug) for bug in BUGS])
def test_the_bug_is_caught(bug: Bug, seconds: dict[str, float]) -> None:
    start = time.perf_counter()
    verdict = judged(bug)
    seconds[bug.name] = time.perf_counter() - start
    assert verdict.status == "FAIL", verdict.summary()
    found = {(m.kind, m.quantity) for m in verdict.mismatches}
    assert bug.finds in found, verdict.summary()
    assert bug.sizes is None or smallest(verdict) == bug.sizes, verdict.summary()
    assert nonzero(verdict) <= bug.nonzero, verdict.summary()
    located = {part.module for part in verdict.located}
    assert located == (set() if bug.module is None else {bug.module}), verdict.summary()


def smallest(verdict: Verdict) -> str:
    """The sizes of the shrunk counterexample; "" where there is none."""
    example = verdict.counterexample
    return "" if example is None else " ".join(f"{name}={size}" for name, size in example.case.sizes)


def nonzero(verdict: Verdict) -> int:
    """How many elements of the shrunk inputs are not zero."""
    example = verdict.counterexample
    return 0 if example is None else sum(each["nonzero"] for each in example.inputs.values())


def test_an_operator_that_finds_nothing_to_spoil_says_so() -> None:
    nothing = (
        argument("aten.gelu.default", "approximate", "tanh", module="square"),
        not_updated("norm.weight"),
        trained("head.weight", True),
        mislaid("norm.nothing"),
    )
    for mutation in nothing:
        with pytest.raises(LookupError), planted("mlp", mutation):
            pass


def test_the_catalogue_is_of_the_size_it_claims() -> None:
    assert len(BUGS) >= 60
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert {bug.model for bug in BUGS} == set(MODELS)
