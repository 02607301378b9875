"""The search: what is drawn, that it is found again, and that what is reported is minimal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase

from isomorph.parity.drawing.cases import simplicity
from isomorph.parity.drawing.distributions import DISTRIBUTIONS
from isomorph.parity.drawing.engine import Exploration, Failure, explore, minimal, profile_settings
from isomorph.parity.drawing.strategies import materialise
from isomorph.parity.verdict import Case

from .searches import CONTRACT, FIXED, Judge, drawn


def when(test: Callable[..., bool], key: Hashable = "wrong") -> Judge:
    """A judge: fails where the test of (case, b, s) is true."""
    return lambda case: key if test(case, *(size for _, size in case.sizes)) else None


MINIMA: dict[str, tuple[Judge, Case]] = {
    "always": (when(lambda c, b, s: True), Case("zeros", 0, (("b", 1), ("s", 2)))),
    "batch of 3": (when(lambda c, b, s: b >= 3), Case("zeros", 0, (("b", 3), ("s", 2)))),
    "both": (when(lambda c, b, s: b >= 2 and s >= 6), Case("zeros", 0, (("b", 2), ("s", 6)))),
    "odd length": (when(lambda c, b, s: s % 2 == 1), Case("zeros", 0, (("b", 1), ("s", 3)))),
    "not the example": (when(lambda c, b, s: b != 5), Case("zeros", 0, (("b", 1), ("s", 2)))),
    "longer than the batch": (when(lambda c, b, s: s > b), Case("zeros", 0, (("b", 1), ("s", 2)))),
    "wide batch": (when(lambda c, b, s: b * s > 30), Case("zeros", 0, (("b", 4), ("s", 8)))),
    "a seed": (when(lambda c, b, s: c.seed > 40 and s > 2), Case("zeros", 41, (("b", 1), ("s", 3)))),
    "no zeros": (
        when(lambda c, b, s: bool(materialise(CONTRACT, c)[0].any())),
        Case("constant", 0, (("b", 1), ("s", 2))),
    ),
    "above five": (
        when(lambda c, b, s: bool((materialise(CONTRACT, c)[0] > 5).any())),
        Case("wide", 0, (("b", 1), ("s", 2))),
    ),
}


@pytest.mark.parametrize("name", MINIMA)
def test_the_minimal_case(name: str) -> None:
    judge, expected = MINIMA[name]
    found = explore(CONTRACT, judge, examples=24)
    assert found.key == "wrong"
    assert (found.flaky, found.note, found.replayed) == (False, "", False)
    assert found.case == expected
    assert found.shrink_runs <= 80


def test_no_number_of_the_minimal_case_can_be_one_less() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights, limit = rng.uniform(0.1, 2, 4), rng.uniform(5, 25)

        def fails(case: Case, weights: np.ndarray = weights, limit: float = limit) -> bool:
            sizes = dict(case.sizes)
            numbers = [sizes["b"], sizes["s"], DISTRIBUTIONS.index(case.distribution), min(case.seed, 30)]
            return bool(weights @ numbers > limit)

        start = Case("edge", 9000, (("b", 20), ("s", 20)))
        found = minimal(CONTRACT, start, fails).case
        assert fails(found)
        for name, low in (("b", 1), ("s", 2)):
            less = tuple((n, size - (n == name)) for n, size in found.sizes)
            assert dict(found.sizes)[name] == low or not fails(replace(found, sizes=less)), found
        kind = DISTRIBUTIONS.index(found.distribution)
        assert kind == 0 or not fails(replace(found, distribution=DISTRIBUTIONS[kind - 1])), found
        assert found.seed == 0 or not fails(replace(found, seed=found.seed - 1)), found


def test_nothing_is_found_where_nothing_is() -> None:
    assert explore(CONTRACT, lambda case: None, examples=30) == Exploration(runs=30)
    assert explore(CONTRACT, lambda case: "x", examples=0) == Exploration()


def test_shrinking_keeps_to_the_first_failure_found() -> None:
    """Another bug waits at every smaller size."""

    def judge(case: Case) -> Hashable:
        return ("value", "output", "0") if dict(case.sizes)["b"] >= 4 else ("value", "output", "1")

    found = explore(CONTRACT, judge, examples=24)
    assert found.key == ("value", "output", "0")
    assert found.case == Case("zeros", 0, (("b", 4), ("s", 2)))


def test_a_case_that_shows_the_first_failure_among_others_is_kept() -> None:
    def judge(case: Case) -> Failure:
        small = dict(case.sizes)["b"] < 4
        return Failure("other", case, frozenset({"more", "wrong"})) if small else Failure("wrong", case)

    found = explore(CONTRACT, judge, examples=24)
    assert found.key == "wrong"
    assert found.case == Case("zeros", 0, (("b", 1), ("s", 2)))


def test_what_is_asked_while_shrinking_can_be_another_judge() -> None:
    found = explore(CONTRACT, lambda case: "wrong", examples=3, confirm=when(lambda c, b, s: b > 2))
    assert found.case == Case("zeros", 0, (("b", 3), ("s", 2)))
    assert found.shrink_runs > found.runs == 1


def test_a_judge_may_search_itself() -> None:
    def judge(case: Case) -> Hashable:
        inner = explore(CONTRACT, when(lambda c, b, s: b >= 2), examples=3)
        return inner.case if dict(case.sizes)["s"] > 3 else None

    found = explore(CONTRACT, judge, examples=3)
    assert found.key == Case("zeros", 0, (("b", 2), ("s", 2)))
    assert found.case == Case("zeros", 0, (("b", 1), ("s", 4)))


def test_several_failures_are_collected_when_asked_for() -> None:
    found = explore(CONTRACT, when(lambda c, b, s: b != 5), examples=24, failures=3)
    assert len(found.failures) == 3
    assert len({failure.case for failure in found.failures}) == 3
    assert found.failures[0].key == found.key == "wrong"


def test_a_case_that_was_run_otherwise_is_not_taken_for_a_smaller_one() -> None:
    """A model that refuses every length but the example's is asked with that one."""
    refused = []

    def judge(case: Case) -> Failure:
        if dict(case.sizes)["s"] != 7:
            refused.append(case)
            case = Case(case.distribution, case.seed, (("b", dict(case.sizes)["b"]), ("s", 7)))
        return Failure("wrong", case)

    found = explore(CONTRACT, judge, examples=24)
    assert found.case == Case("zeros", 0, (("b", 1), ("s", 7)))
    assert refused


def test_a_failure_that_does_not_come_again_is_said_to_be_flaky() -> None:
    calls: list[Case] = []

    def judge(case: Case) -> str | None:
        calls.append(case)
        return "wrong" if len(calls) == 1 else None

    found = explore(CONTRACT, judge, examples=24)
    assert found.flaky
    assert found.case == found.failures[0].case == calls[0]
    assert found.shrink_runs == 1


def test_what_fails_every_other_time_is_reported_unshrunk() -> None:
    calls: list[Case] = []

    def judge(case: Case) -> str | None:
        calls.append(case)
        return "wrong" if len(calls) % 5 else None

    found = explore(CONTRACT, judge, examples=24)
    assert found.case is not None
    assert found.case in calls


def test_the_budget_of_shrinking_is_kept() -> None:
    for runs in (0, 1, 3, 9):
        calls: list[Case] = []

        def judge(case: Case, calls: list[Case] = calls) -> str | None:
            calls.append(case)
            return "wrong" if case.seed > 40 and dict(case.sizes)["b"] > 2 else None

        found = explore(CONTRACT, judge, examples=24, shrink_runs=runs)
        assert found.shrink_runs == len(calls) - found.runs <= runs
        assert found.note.startswith("shrinking stopped")
        assert not found.flaky
        assert found.case in calls
    assert simplicity(found.case) < simplicity(found.failures[0].case), "what was found before the end counts"


def test_time_that_is_up_stops_drawing_and_shrinking() -> None:
    def slow(case: Case) -> None:
        time.sleep(0.02)

    start = time.monotonic()
    found = explore(CONTRACT, slow, examples=1000, deadline=start + 0.2)
    assert time.monotonic() - start < 0.6
    assert found.exhausted
    assert 1 <= found.runs <= 11
    late = explore(CONTRACT, slow, examples=10, deadline=start)
    assert (late.exhausted, late.runs) == (True, 0)

    def failing(case: Case) -> str:
        time.sleep(0.02)
        return "wrong"

    start = time.monotonic()
    found = explore(CONTRACT, failing, examples=1000, deadline=start + 0.1)
    assert time.monotonic() - start < 0.5
    assert found.case is not None
    assert "time was up" in found.note


def test_exceptions_of_the_judge_pass_through_but_not_while_shrinking() -> None:
    def broken(case: Case) -> None:
        raise ZeroDivisionError("the judge")

    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            explore(CONTRACT, lambda case, error=error: (_ for _ in ()).throw(error("x")), examples=3)  # type: ignore[misc]

    def dies(case: Case) -> str:
        if case.seed < 3 and dict(case.sizes)["b"] < 4:
            raise RuntimeError("the worker died")
        return "wrong"

    found = explore(CONTRACT, dies, examples=3)
    assert found.key == "wrong"
    assert "the worker died" in found.note
    assert not found.flaky


def test_minimal_starts_where_it_is_told_to() -> None:
    start = Case("edge", 123_456, (("b", 19), ("s", 13)), "example", "randomised")
    found = minimal(CONTRACT, start, lambda case: dict(case.sizes)["b"] >= 17 and case.seed >= 1000)
    assert found.case == Case("zeros", 1000, (("b", 17), ("s", 2)), weights="randomised")
    large = minimal(CONTRACT, Case("edge", 3, (("b", 500), ("s", 1))), lambda case: dict(case.sizes)["b"] >= 33)
    assert large.case == Case("zeros", 0, (("b", 33), ("s", 1)))
    special = minimal(
        CONTRACT, Case("special", 5, CONTRACT.sizes), lambda c: not np.isfinite(materialise(CONTRACT, c)).all()
    )
    assert special.case == Case("special", 0, (("b", 1), ("s", 2)))


def test_minimal_is_deterministic() -> None:
    def fails(case: Case) -> bool:
        return hash((case.seed // 7, case.sizes)) % 3 == 1

    start = next(c for c in drawn(examples=50) if fails(c))
    assert len({minimal(CONTRACT, start, fails) for _ in range(4)}) == 1


# ------------------------------------------------------------------------------------------------------- the database
def test_a_failure_replays_first_and_is_forgotten_when_it_is_repaired(tmp_path: Path) -> None:
    folder = tmp_path / "failures"
    rare = when(lambda c, b, s: c.distribution == "edge")
    options: dict[str, object] = {"examples": 24, "database": str(folder), "key": b"model eval"}
    found = explore(CONTRACT, rare, **options)  # type: ignore[arg-type]
    assert found.runs > 1
    assert found.case == Case("edge", 0, (("b", 1), ("s", 2)))

    again = explore(CONTRACT, rare, **{**options, "seed": 9})  # type: ignore[arg-type]
    assert (again.replayed, again.runs, again.case) == (True, 1, found.case)
    other = explore(CONTRACT, rare, **{**options, "key": b"model train"})  # type: ignore[arg-type]
    assert not other.replayed

    seen: list[Case] = []
    repaired = explore(CONTRACT, lambda case: seen.append(case), **options)  # type: ignore[arg-type, func-returns-value]
    assert repaired.key is None
    assert seen[0] == found.case
    assert seen[1:] == drawn(examples=24)
    seen.clear()
    explore(CONTRACT, lambda case: seen.append(case), **options)  # type: ignore[arg-type, func-returns-value]
    assert seen == drawn(examples=24)


def test_several_failures_wanted_do_not_make_a_stored_one_forgotten() -> None:
    store = InMemoryExampleDatabase()
    judge = when(lambda c, b, s: c.distribution == "grid")
    for replayed in (False, True, True):
        assert explore(CONTRACT, judge, examples=6, failures=3, database=store).replayed is replayed


def test_only_one_case_is_stored() -> None:
    store = InMemoryExampleDatabase()
    for bug in (lambda c, b, s: b > 2, lambda c, b, s: b > 2, lambda c, b, s: s > 4):
        explore(CONTRACT, when(bug), examples=12, database=store)
        assert [len(values) for values in store.data.values() if values] == [1]


def test_a_stored_case_of_another_contract_or_junk_does_no_harm() -> None:
    store = InMemoryExampleDatabase()
    explore(CONTRACT, lambda case: "wrong", examples=3, database=store)
    (key,) = (key for key, values in store.data.items() if values)
    store.save(key, b"\xff\xff junk")
    found = explore(FIXED, lambda case: None, examples=3, database=store)
    assert found.key is None
    assert not any(store.data.values())


def test_time_that_is_up_does_not_forget() -> None:
    store = InMemoryExampleDatabase()
    explore(CONTRACT, lambda case: "wrong", examples=3, database=store)
    assert explore(CONTRACT, lambda case: None, examples=3, database=store, deadline=time.monotonic()).exhausted
    assert explore(CONTRACT, lambda case: "wrong", examples=3, database=store).replayed


# --------------------------------------------------------------------------------------------------- where it is used
@settings(max_examples=5, database=None)
@given(st.integers(0, 3))
def test_inside_somebody_elses_given(n: int) -> None:
    found = explore(CONTRACT, when(lambda c, b, s: b >= n), examples=12)
    assert found.case is not None
    assert dict(found.case.sizes)["b"] == max(1, n)


def test_nothing_is_printed_or_left_behind(tmp_path: Path) -> None:
    """In a project of its own, with a module that has constants, as hypothesis would like to note down."""
    (tmp_path / "project.py").write_text("NUMBERS = [17, 23, 4711]\n")
    (tmp_path / "run.py").write_text(
        "import project, os\n"
        "from isomorph.parity.drawing.engine import explore\n"
        "from isomorph.parity.drawing.strategies import Contract, InputSpec\n"
        "from hypothesis.configuration import storage_directory\n"
        "before = storage_directory(intent_to_write=False).path\n"
        "c = Contract((InputSpec('x', 'float32', ('b', 3)),), (('b', 9),))\n"
        "for seed in range(3):\n"
        "    for bug in (None, 'wrong'):\n"
        "        found = explore(c, lambda case: bug if case.seed > 50 else None, examples=100, seed=seed)\n"
        "        assert (found.key is None) == (bug is None)\n"
        "assert storage_directory(intent_to_write=False).path == before\n"
        "child = os.fork()  # a process that has none of its parent's threads\n"
        "if not child:\n"
        "    os._exit(explore(c, lambda case: None, examples=5).runs)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5\n"
    )
    ran = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["project.py", "run.py"]


def test_profiles() -> None:
    assert [profile_settings(f"isomorph-{name}").examples for name in ("quick", "full", "thorough")] == [3, 24, 200]
    assert profile_settings("isomorph-full").database is None
    store = InMemoryExampleDatabase()
    settings.register_profile("mine", max_examples=77, database=store, suppress_health_check=list(HealthCheck))
    assert profile_settings("mine").examples == 77
    assert profile_settings("mine").database is store
    settings.register_profile("mine in CI", derandomize=True)
    assert profile_settings("mine in CI").derandomize
    with pytest.raises(KeyError, match="no such"):
        profile_settings("no such")
