"""Baselines: what is recorded, what is a regression, what is noise, and what becomes of the file."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isomorph
from isomorph.convert.errors import UsageError
from isomorph.parity.pytest_plugin import noise
from isomorph.parity.pytest_plugin.baseline import SCHEMA, Baselines, device_of, key_of, node_of
from isomorph.parity.pytest_plugin.noise import Figure, figures_of, known_from, suspicions
from isomorph.parity.record import Result
from tests.plugin.inner import makes

pytest_plugins = ("pytester",)

Function = Callable[..., Any]
X = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
HOW = {"level": "quick", "examples": None, "modes": ("eval", "train"), "dtype": "both", "backward": True, "steps": None}


def gated(x: Any) -> Any:
    return np.tanh(x) * 3 + 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def gated_otherwise(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50))) + 3 * np.tanh(x)


def mixed(x: Any) -> Any:
    return x @ np.arange(12, dtype=x.dtype).reshape(4, 3) / 7


def mixed_otherwise(x: Any) -> Any:
    return sum(x[:, i : i + 1] * np.arange(12, dtype=x.dtype).reshape(4, 3)[i] for i in (3, 1, 0, 2)) / 7


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_otherwise(x: Any) -> Any:
    shifted = x - x.max(-1, keepdims=True)
    return np.exp(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


PAIRS = {"gated": (gated, gated_otherwise), "mixed": (mixed, mixed_otherwise), "softmax": (softmax, softmax_otherwise)}


def off(function: Function, relative: float) -> Function:
    return lambda x: function(x) * (1 + relative)


class Run:
    """A check that is made with seeds, and how often."""

    def __init__(self, original: Function, converted: Function) -> None:
        self.pair, self.asked = (original, converted), list[tuple[int, dict[str, Any]]]()

    def __call__(self, seed: int, how: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((seed, dict(how)))
        return isomorph.check(*self.pair, inputs=(X,), seed=seed, explain=False, **how).to_dict()

    def judged(self, baselines: Baselines, seed: int = 0, how: Mapping[str, Any] = HOW) -> tuple[Result, str]:
        verdict = self(seed, how)
        del self.asked[:]
        result = Result("t.py::t", verdict["status"], verdict=verdict)
        found = baselines.judge(result, "t.py::t", 1, seed, how, self)
        (said,) = baselines.take("t.py::t")
        return found, said["outcome"]


def recorded(path: Path, run: Run, seed: int = 0) -> Baselines:
    """The baselines as a later session reads them."""
    baselines = Baselines.read(path, update=True)
    verdict = run(seed, HOW)
    result = baselines.judge(Result("t.py::t", "PASS", verdict=verdict), "t.py::t", 1, seed, HOW, run)
    assert result.passed
    baselines.write(baselines.take("t.py::t"), lambda key: True)
    return Baselines.read(path)


# ----------------------------------------------------------------------------------------------------- real figures
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_another_seed_is_no_regression_and_an_error_of_1e_12_is(
    pair: tuple[Function, Function], tmp_path: Path
) -> None:
    with np.errstate(all="ignore"):
        baselines = recorded(tmp_path / "b.json", Run(*pair))
        unchanged = [Run(*pair).judged(baselines, seed)[0].status for seed in range(100, 130)]
        assert unchanged == ["PASS"] * 30
        for seed in (0, 100, 101):
            planted = Run(pair[0], off(pair[1], 1e-12))
            result, outcome = planted.judged(baselines, seed)
            assert (result.status, outcome) == ("REGRESSION", "regression")
            assert result.verdict is not None
            assert result.verdict["status"] == "PASS", "the tolerance lets it pass"
            assert "structure, output, eval, float64: error 1.0e-12" in result.message
            assert "--parity-update-baseline" in result.message
            assert "\n" not in result.message


def test_an_improvement_is_no_failure(tmp_path: Path) -> None:
    baselines = recorded(tmp_path / "b.json", Run(gated, off(gated, 1e-12)))
    result, outcome = Run(gated, gated).judged(baselines)
    assert (result.status, outcome) == ("PASS", "kept")


def test_another_way_of_running_is_confirmed_in_the_way_of_the_baseline(tmp_path: Path) -> None:
    baselines = recorded(tmp_path / "b.json", Run(gated, gated))
    run = Run(gated, off(gated, 1e-12))
    result, _ = run.judged(baselines, 5, {**HOW, "examples": 9})
    assert result.status == "REGRESSION"
    assert [seed for seed, _ in run.asked] == baselines.entries["t.py::t#1"]["seeds"][:3], "most of five"
    assert {how["examples"] for _, how in run.asked} == {None}


def test_the_same_seed_is_not_run_again(tmp_path: Path) -> None:
    baselines = recorded(tmp_path / "b.json", Run(gated, gated))
    run = Run(gated, off(gated, 1e-12))
    assert run.judged(baselines, 0)[0].status == "REGRESSION"
    assert [seed for seed, _ in run.asked] == baselines.entries["t.py::t#1"]["seeds"][1:3]


# ------------------------------------------------------------------------------------------------- the model of noise
def verdict(shares: Sequence[float], status: str = "PASS") -> dict[str, Any]:
    """One whose checks have these shares of a tolerance of 1e-6."""
    common = {"quantity": "output", "mode": "eval", "dtype": "float64", "equal": 1, "failed": 0, "ratio": None}
    checks = [{**common, "stage": f"s{i}", "worst": share * 1e-6, "tolerance": 1e-6} for i, share in enumerate(shares)]
    return {"status": status, "checks": checks, "environment": {"numpy": "1"}, "seed": 0}


def judged(baselines: Baselines, share: float, others: Mapping[int, float], seed: int = 1) -> tuple[Result, str]:
    result = Result("t", "PASS", verdict=verdict([share]))
    found = baselines.judge(result, "t", 1, seed, HOW, lambda seed, how: verdict([others[seed]]))
    return found, baselines.take("t")[0]["outcome"]


def known(path: Path, shares: Sequence[float]) -> Baselines:
    baselines, drawn = Baselines(path, update=True), iter(shares[1:])
    result = Result("t", "PASS", verdict=verdict(shares[:1]))
    baselines.judge(result, "t", 1, 0, HOW, lambda seed, how: verdict([next(drawn)]))
    baselines.write(baselines.take("t"), lambda key: True)
    return Baselines.read(path)


def test_a_heavy_tail_of_another_seed_is_told_and_not_failed(tmp_path: Path) -> None:
    shares = [1e-3, 2e-3, 1.5e-3, 1e-3, 3e-3]
    baselines = known(tmp_path / "b.json", shares)
    seeds = baselines.entries["t#1"]["seeds"]
    result, outcome = judged(baselines, 0.5, dict(zip(seeds, shares, strict=True)))
    assert (result.status, outcome) == ("PASS", "unsteady")
    result, outcome = judged(baselines, 0.5, dict(zip(seeds, [0.4, 0.4, 1e-3, 0.4, 1e-3], strict=True)))
    assert (result.status, outcome) == ("REGRESSION", "regression")


def test_a_baseline_seed_that_does_not_even_pass_counts_against(tmp_path: Path) -> None:
    baselines = known(tmp_path / "b.json", [1e-3] * 5)
    result = Result("t", "PASS", verdict=verdict([0.5]))
    found = baselines.judge(result, "t", 1, 1, HOW, lambda seed, how: verdict([1e-3], "FAIL"))
    assert found.status == "REGRESSION"


def test_a_wide_spread_allows_more_than_a_narrow_one() -> None:
    def limit(values: Sequence[float]) -> float:
        return known_from("share", [Figure(value, value, 0.0) for value in values]).limit

    narrow, wide = [1e-5] * 5, [1e-6, 1e-5, 1e-4, 1e-5, 1e-5]
    assert 2e-5 < limit(narrow) < 1e-4 < 2e-4 < limit(wide)
    assert limit([0.9] * 5) == 1.0, "the tolerance itself"


def test_few_draws_of_the_same_noise_are_rarely_suspected() -> None:
    """The model on its own ground: log-normal figures, factors from 1.2 to 10. What is suspected is looked at again."""
    draws, suspected = random.Random(0), 0
    trials = list(itertools.product(range(200), (1.2, 2.0, 4.0, 10.0)))
    for _, factor in trials:
        drawn = [Figure(math.exp(draws.gauss(math.log(1e-6), math.log(factor))), 1.0, 0.0) for _ in range(6)]
        suspected += bool(suspicions({"k": drawn[5]}, {"k": known_from("share", drawn[:5])}))
    assert suspected <= 0.02 * len(trials)


def test_a_few_ulps_are_never_suspected() -> None:
    def figure(error: float, dtype: str) -> dict[str, Figure]:
        said = verdict([error / 1e-6])
        said["checks"][0]["dtype"] = dtype
        return figures_of(said)

    for dtype, ulps in (("float64", 255), ("float32", 3.9), ("float16", 3.9)):
        (name,) = figure(0.0, dtype)
        base = {name: known_from("share", [figure(0.0, dtype)[name]] * 5)}
        assert not suspicions(figure(ulps * noise.ULP[dtype], dtype), base)
        assert suspicions(figure(ulps * 1.1 * noise.ULP[dtype], dtype), base)


def test_a_ratio_is_judged_where_precision_was_compared() -> None:
    said = verdict([1e-3])
    said["checks"][0]["ratio"] = 1.0
    base = {name: known_from(name.rpartition(", ")[2], [one] * 5) for name, one in figures_of(said).items()}
    said["checks"][0]["ratio"] = 3.5
    assert suspicions(figures_of(said), base) == ["s0, output, eval, float64, ratio"]
    said["checks"][0]["ratio"] = 1.9
    assert suspicions(figures_of(said), base) == []


def test_what_was_not_compared_or_is_no_number_has_no_figure() -> None:
    said = verdict([1e-3, 1e-3, 1e-3])
    said["checks"][0]["equal"] = 0
    said["checks"][1]["worst"] = "inf"
    assert list(figures_of(said)) == ["s2, output, eval, float64, share"]


# --------------------------------------------------------------------------------------------------------- recording
def test_a_check_that_fails_with_a_further_seed_fails_the_update(tmp_path: Path) -> None:
    baselines = Baselines(tmp_path / "b.json", update=True)
    result = Result("t", "PASS", verdict=verdict([1e-3]))
    found = baselines.judge(result, "t", 1, 3, HOW, lambda seed, how: verdict([1e-3], "FAIL"))
    assert found.status == "FAIL"
    assert found.verdict is not None
    assert found.verdict["status"] == "FAIL"
    assert found.message.startswith("passes with seed 3, FAIL with seed 7922")
    (said,) = baselines.take("t")
    assert said["entry"] is None


def test_what_did_not_pass_is_not_recorded_and_its_entry_stays(tmp_path: Path) -> None:
    baselines = known(tmp_path / "b.json", [1e-3] * 5)
    baselines.update = True
    before = (tmp_path / "b.json").read_text()
    failing = Result("t", "FAIL", verdict=verdict([1e-3], "FAIL"))
    assert baselines.judge(failing, "t", 1, 0, HOW, lambda seed, how: {}) is failing
    said = baselines.take("t")
    assert baselines.write(said, lambda key: True).startswith("baselines: 0 recorded, 1 as they were")
    assert (tmp_path / "b.json").read_text() == before
    assert any("left as it was" in line for line in baselines.summary(said))


def test_the_file_is_sorted_stable_and_holds_versions_and_seeds(tmp_path: Path) -> None:
    recorded(tmp_path / "a.json", Run(gated, gated_otherwise))
    recorded(tmp_path / "b.json", Run(gated, gated_otherwise))
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    said = json.loads(text)
    assert said["schema"] == SCHEMA
    entry = said["entries"]["t.py::t#1"]
    assert said["environments"][entry["environment"]]["numpy"] == np.__version__
    assert len(set(entry["seeds"])) == 5
    assert entry["how"] == {**HOW, "modes": ["eval", "train"]}
    lines = [line for line in text.splitlines() if '"limit"' in line]
    assert len(lines) == len(entry["figures"]), "a figure a line"
    assert lines == sorted(lines)


def test_versions_that_changed_since_are_named(tmp_path: Path) -> None:
    baselines = recorded(tmp_path / "b.json", Run(gated, gated))
    for versions in baselines.environments.values():
        versions["numpy"] = "1.0"
    result, _ = Run(gated, off(gated, 1e-12)).judged(baselines)
    assert f"numpy 1.0 -> {np.__version__}" in result.message


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = known(tmp_path / "b.json", [1e-3] * 5)
    before = (tmp_path / "b.json").read_text()

    def fails(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(UsageError, match="No space left"):
        baselines.write([], lambda key: False)
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]
    assert (tmp_path / "b.json").read_text() == before


def document(limit: Any = 0.5, seed: Any = 0, how: Any = HOW, environment: Any = None) -> str:
    """A file of one baseline."""
    figure = {"error": 0.0, "limit": limit, "spread": 1.2, "typical": 0.1}
    entry = {"environment": "e", "figures": {"a, b, share": figure}, "how": how, "seeds": [seed]}
    return json.dumps({"schema": SCHEMA, "entries": {"t#1": entry}, "environments": {"e": environment or {}}})


def test_a_baseline_as_it_was_recorded_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(document())
    assert list(Baselines.read(tmp_path / "b.json").entries) == ["t#1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ('{"schema": "isomorph.baseline/0", "entries": {}, "environments": {}}', "schema 'isomorph.baseline/0'"),
        ("[]", "list indices"),
        ('{"entries": {}}', "no 'schema'"),
        (
            f'{{"schema": "{SCHEMA}", "environments": {{}}, "entries": {{"t#1": {{"environment": "x"}}}}}}',
            "environment",
        ),
        (document(limit=0), "the limit above 0"),
        (document(limit=math.inf), "finite numbers"),
        (document(limit=True), "finite numbers"),
        (document(seed=-1), "seeds must be whole numbers of 0 or more"),
        (document(seed=True), "seeds must be whole numbers of 0 or more"),
        (document(how={"examples": -3}), "examples must be a whole number of at least 1, not -3"),
        (document(how={"modes": "eval"}), "modes must be some of"),
        (document(how={"devise": "cpu"}), "unknown devise in 'how'"),
        (document(environment=["torch"]), "no table of versions"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UsageError, match=r"^the parity baseline .*b\.json cannot be read: ") as caught:
        Baselines.read(tmp_path / "b.json", update=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_names_of_entries_say_test_number_and_device() -> None:
    for node_id in ("t.py::t", "t.py::t[#1]", "t.py::t[a@b#2@cuda]", "t.py::t[x #3]"):
        for device in ("cpu", "cuda:0"):
            key = key_of(node_id, 2, device)
            assert (node_of(key), device_of(key)) == (node_id, device)


# ---------------------------------------------------------------------------------------------------- in pytest's hands
TESTS = """
OFF = 0.0

@pytest.mark.parametrize("k", [1, 2])
def test_two(parity, k):
    parity(double, twice, (X,))
    parity(double, lambda x: (x + x) * (1 + OFF), (X,))

def test_other(parity):
    parity(double, twice, (X,))
"""


def entries(pytester: pytest.Pytester) -> list[str]:
    return list(json.loads((pytester.path / "parity-baseline.json").read_text())["entries"])


def test_recorded_then_held_against(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    run = pytester.runpytest("--parity-update-baseline")
    run.assert_outcomes(passed=3)
    run.stdout.fnmatch_lines(["baselines: 5 recorded, 0 as they were: *parity-baseline.json"])
    assert entries(pytester) == [
        "test_inner.py::test_other#1", "test_inner.py::test_two[1]#1", "test_inner.py::test_two[1]#2",
        "test_inner.py::test_two[2]#1", "test_inner.py::test_two[2]#2",
    ]  # fmt: skip
    pytester.runpytest("--parity-seed", "3").assert_outcomes(passed=3)

    makes(pytester, TESTS.replace("OFF = 0.0", "OFF = 1e-12"))
    run = pytester.runpytest("--parity-seed", "3")
    run.assert_outcomes(passed=1, failed=2)
    run.stdout.fnmatch_lines(
        ["E *ParityFailure: REGRESSION: double and *structure, output, eval, float64: error 1.0e-12 *",
         "REGRESSION test_inner.py::test_two?1? #2: *", "* 3 PASS, 2 REGRESSION"],
        consecutive=False,
    )  # fmt: skip
    pytester.runpytest("--parity-update-baseline").assert_outcomes(passed=3)
    pytester.runpytest().assert_outcomes(passed=3)


def test_a_check_without_a_baseline_is_told(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    assert "no baseline" not in pytester.runpytest().stdout.str(), "nobody asked for any"
    pytester.runpytest("--parity-update-baseline", "-k", "other")
    run = pytester.runpytest()
    run.assert_outcomes(passed=3)
    run.stdout.fnmatch_lines(["no baseline: 4 checks *"])


def test_entries_of_tests_that_are_gone_are_dropped_by_a_full_run_only(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    pytester.runpytest("--parity-update-baseline")
    fewer = TESTS.replace("[1, 2]", "[1]").replace("    parity(double, lambda x: (x + x) * (1 + OFF), (X,))\n", "")
    makes(pytester, fewer)
    for partial in (["-k", "test"], ["test_inner.py"], ["--lf"], ["--ignore", "none"]):
        pytester.runpytest("--parity-update-baseline", *partial).assert_outcomes(passed=2)
        assert len(entries(pytester)) == 5, partial
    run = pytester.runpytest("--parity-update-baseline")
    run.stdout.fnmatch_lines(["baselines: 2 recorded, 3 dropped, 0 as they were: *"])
    assert entries(pytester) == ["test_inner.py::test_other#1", "test_inner.py::test_two[1]#1"]


def test_a_test_that_is_deselected_skipped_or_cannot_be_collected_is_not_gone(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    pytester.runpytest("--parity-update-baseline")
    makes(pytester, TESTS.replace("def test_other", "@pytest.mark.skip\ndef test_other"))
    pytester.runpytest("--parity-update-baseline", "-m", "not parametrize").assert_outcomes(skipped=1, deselected=2)
    assert len(entries(pytester)) == 5
    makes(pytester, "raise ValueError")
    pytester.makepyfile(test_more="def test(): pass")
    pytester.runpytest("--parity-update-baseline", "--continue-on-collection-errors").assert_outcomes(
        errors=1, passed=1
    )
    assert len(entries(pytester)) == 5


def test_a_file_that_the_ini_file_names_and_that_is_lost_is_told(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    assert "no baseline" not in pytester.runpytest().stdout.str()
    pytester.makeini("[pytest]\nparity_baseline = known.json\n")
    pytester.runpytest().stdout.fnmatch_lines(["no baseline in *known.json, which is not there: 5 checks *"])


def test_a_file_that_cannot_be_read_is_a_usage_error(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    pytester.makefile(".json", **{"kept/known": "nothing"})
    pytester.makeini("[pytest]\nparity_baseline = kept/known.json\n")
    for option in ([], ["--parity-update-baseline"]):
        run = pytester.runpytest(*option)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        run.stderr.fnmatch_lines(["ERROR: the parity baseline *known.json cannot be read: Expecting value*"])
        assert "Traceback" not in run.stderr.str()
    assert (pytester.path / "kept" / "known.json").read_text() == "nothing"


def test_a_file_that_cannot_be_written_fails_the_run(pytester: pytest.Pytester) -> None:
    makes(pytester, TESTS)
    pytester.makeini("[pytest]\nparity_baseline = absent/known.json\n")
    run = pytester.runpytest("--parity-update-baseline")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stdout.fnmatch_lines(["error: *absent*"])
