"""The plugin's options, ini values and profiles: each does what it says, in its place in the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import hypothesis
import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.pytest_plugin import models, options
from isomorph.parity.runners import device as devices
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.verdict import Verdict
from tests.plugin.inner import checked, makes

pytest_plugins = ("pytester",)

SAME = "def test_same(parity):\n    parity(double, twice, (X,){more})\n"


def settings(pytester: pytest.Pytester, *args: str, mark: str = "", more: str = "", ini: str = "") -> dict[str, Any]:
    """With what a check of one test was made."""
    makes(pytester, mark + SAME.format(more=more))
    if ini:
        pytester.makeini(f"[pytest]\n{ini}\n")
    (result,) = checked(pytester, *args)
    found: dict[str, Any] = result["settings"]
    return {**found, "cases": len(result["verdict"]["coverage"]["cases"])}


def test_the_closest_word_on_examples_counts(pytester: pytest.Pytester) -> None:
    """Profile, ini, command line, mark, call."""
    ini, option, mark = "parity_examples = 4", "--parity-examples=5", "@pytest.mark.parity(examples=6)\n"
    assert settings(pytester)["cases"] == 3  # of the level "quick", by the profile "dev"
    assert settings(pytester, ini=ini)["cases"] == 4
    assert settings(pytester, option, ini=ini)["cases"] == 5
    assert settings(pytester, option, ini=ini, mark=mark)["cases"] == 6
    assert settings(pytester, option, ini=ini, mark=mark, more=", examples=7")["cases"] == 7


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("--parity-seed=7",), {"seed": 7}),
        (("--parity-budget=60",), {"budget": 60.0}),
        (("--parity-device=cpu",), {"profile": "dev", "level": "quick"}),
        (("--parity-profile=thorough", "--parity-examples=2"), {"profile": "thorough", "level": "thorough"}),
        (("--parity-profile=ci",), {"profile": "ci", "level": "full", "database": None, "seed": 0}),
    ],
)
def test_an_option_reaches_the_check(pytester: pytest.Pytester, given: tuple[str, ...], wanted: dict[str, Any]) -> None:
    found = settings(pytester, *given)
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("ini", "wanted"),
    [
        ("parity_seed = 7", {"seed": 7}),
        ("parity_budget = 60", {"budget": 60.0}),
        ("parity_profile = ci", {"profile": "ci"}),
        ("parity_device = cpu", {"profile": "dev"}),
    ],
)
def test_an_ini_value_means_the_same(pytester: pytest.Pytester, ini: str, wanted: dict[str, Any]) -> None:
    found = settings(pytester, ini=ini)
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("value", "profile"), [("true", "ci"), ("1", "ci"), ("0", "dev"), ("false", "dev"), ("", "dev")]
)
def test_the_profile_follows_the_environment(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, profile: str
) -> None:
    monkeypatch.setenv("CI", value)
    assert settings(pytester)["profile"] == profile


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--parity-device=tpu", "--parity-device must be cpu, cuda, cuda:N or all, not 'tpu'"),
        ("--parity-examples=0", "--parity-examples must be a whole number of at least 1, not '0'"),
        ("--parity-examples=many", "--parity-examples must be a whole number"),
        ("--parity-budget=-1", "--parity-budget must be a number of seconds above 0, not '-1'"),
        ("--parity-budget=nan", "--parity-budget must be a number"),
        ("--parity-profile=slow", "--parity-profile must be ci, dev or thorough, not 'slow'"),
        ("--parity-seed=-1", "--parity-seed must be a whole number of at least 0"),
        ("--parity-report=", "--parity-report must name a folder"),
        ("--parity-report=report.html", "--parity-report must name a folder"),
    ],
)
def test_a_bad_option_is_a_usage_error(pytester: pytest.Pytester, given: str, said: str) -> None:
    makes(pytester, "def test_it(): pass\n")
    run = pytester.runpytest(given)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert said in run.stderr.str()
    assert len(run.stderr.str().strip().splitlines()) == 1


def test_a_bad_ini_value_names_its_file(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_it(): pass\n")
    pytester.makeini("[pytest]\nparity_examples = none\n")
    run = pytester.runpytest()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: parity_examples (*tox.ini) must be a whole number of at least 1, not 'none'"])


@pytest.mark.parametrize(("name", "value"), [("tool.pytest", '"yes"'), ("tool.pytest.ini_options", '"maybe"')])
def test_a_switch_that_is_none_is_told_before_anything_is_collected(
    pytester: pytest.Pytester, name: str, value: str
) -> None:
    makes(pytester, "def test_it(): pass\n")
    pytester.makepyprojecttoml(f"[{name}]\nparity_gate = {value}\n")
    run = pytester.runpytest()
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "parity_gate" in run.stderr.str()
    assert "collected" not in run.stdout.str()


def test_ini_values_in_a_toml_file(pytester: pytest.Pytester) -> None:
    makes(pytester, SAME.format(more=""))
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nparity_examples = 4\nparity_profile = "ci"\n')
    (result,) = checked(pytester)
    assert (result["settings"]["examples"], result["settings"]["profile"]) == (4, "ci")


# ------------------------------------------------------------------------------------------------------------- devices
def test_a_gpu_that_is_not_there_fails_in_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    makes(pytester, SAME.format(more=""))
    run = pytester.runpytest("--parity-device", "cuda")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["E*UsageError: device cuda is not there: torch sees no GPU(s)*"])


def test_all_devices_are_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert options.devices_of("all") == ("cpu",)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert options.devices_of("all") == ("cpu", "cuda")
    assert options.devices_of("cuda:1") == ("cuda:1",)
    assert options.devices_of(None) == (None,)
    with pytest.raises(UsageError, match="cuda:2 is not there"):
        options.devices_of("cuda:2")


def test_each_device_has_a_result_of_its_own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that is none: what is to run there runs here."""
    check = models.check

    def here(original: ModelSpec, converted: ModelSpec, choice: options.Choice) -> Verdict:
        return check(replace(original, device="cpu"), replace(converted, device="cpu"), choice)

    monkeypatch.setattr(devices, "require_torch", lambda device: None)
    monkeypatch.setattr(models, "check", here)
    makes(pytester, SAME.format(more="") + "def test_differs(parity):\n    parity(double, wrong, (X,))\n")
    found = checked(pytester, "--parity-device", "all")
    assert [(result["name"].rpartition("::")[2], result["device"], result["status"]) for result in found] == [
        ("test_same[cpu]", "cpu", "PASS"),
        ("test_same[cuda]", "cuda", "PASS"),
        ("test_differs[cpu]", "cpu", "FAIL"),
        ("test_differs[cuda]", "cuda", "FAIL"),
    ]


@pytest.mark.gpu
def test_a_gpu_that_is_there_is_compared_on(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_same(parity):\n    parity(net(), net(), torch.ones(2, 3), modes=('eval',))\n")
    found = checked(pytester, "--parity-device", "all")
    assert [(result["device"], result["status"]) for result in found] == [("cpu", "PASS"), ("cuda", "PASS")]
    assert found[1]["verdict"]["environment"]["original.device"].startswith("cuda")


def test_a_device_that_is_not_given_is_the_models_own(pytester: pytest.Pytester) -> None:
    body = """
from isomorph import ModelSpec
def test_it(parity):
    with pytest.raises(Exception, match="cuda:7"):
        parity(ModelSpec(net(), device="cuda:7"), net(), torch.ones(2, 3))
    parity(ModelSpec(net(), device="cuda:7"), net(), torch.ones(2, 3), device="cpu", modes=("eval",))
"""
    makes(pytester, body)
    assert [result["status"] for result in checked(pytester)] == ["ERROR", "PASS"]


# ---------------------------------------------------------------------------------------------------------- hypothesis
PROFILE = """
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase
settings.register_profile("mine", max_examples=5, {more})
"""


def with_profile(pytester: pytest.Pytester, more: str) -> None:
    pytester.makeconftest(PROFILE.format(more=more))


def test_hypothesis_seed_is_taken_where_no_other_is_given(pytester: pytest.Pytester) -> None:
    assert settings(pytester, "--hypothesis-seed=9")["seed"] == 9
    assert settings(pytester, "--hypothesis-seed=9", "--parity-seed=3")["seed"] == 3
    word = settings(pytester, "--hypothesis-seed=word")["seed"]
    assert word == settings(pytester, "--hypothesis-seed=word")["seed"] != 9


def test_hypothesis_profile_is_honoured(pytester: pytest.Pytester) -> None:
    with_profile(pytester, "database=None, derandomize=True")
    found = settings(pytester, "--hypothesis-profile=mine", "--hypothesis-seed=9")
    assert (found["examples"], found["database"], found["seed"], found["cases"]) == (5, None, 0, 5)
    assert settings(pytester, "--hypothesis-profile=mine", "--parity-examples=2")["examples"] == 2


def test_a_failure_is_kept_in_hypothesis_own_database(pytester: pytest.Pytester) -> None:
    with_profile(pytester, "database=DirectoryBasedExampleDatabase('kept')")
    makes(pytester, "def test_differs(parity):\n    parity(double, wrong, (X,))\n")
    checked(pytester, "--hypothesis-profile=mine")
    kept = [file for file in (pytester.path / "kept").rglob("*") if file.is_file()]
    assert kept
    assert not (pytester.path / ".hypothesis").exists()


def test_the_profile_that_a_conftest_loads_says_which_database(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PROFILE.format(more="database=DirectoryBasedExampleDatabase('kept')")
                          + 'settings.load_profile("mine")\n')  # fmt: skip
    makes(pytester, "def test_differs(parity):\n    parity(double, wrong, (X,))\n")
    checked(pytester, "--parity-profile=ci")
    assert not (pytester.path / "kept").exists(), "the same answer every time, whatever was found before"
    checked(pytester)
    assert any((pytester.path / "kept").rglob("*"))


def test_hypothesis_plugin_may_be_off(pytester: pytest.Pytester) -> None:
    found = settings(pytester, "-p", "no:hypothesispytest", "--parity-seed=4")
    assert (found["seed"], found["database"]) == (4, "default")


def test_a_check_works_inside_a_test_of_hypothesis(pytester: pytest.Pytester) -> None:
    body = """
from hypothesis import HealthCheck, given, settings, strategies

@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.integers(1, 3))
def test_it(parity, factor):
    parity(lambda x: x * factor, lambda x: factor * x, (X,))
"""
    makes(pytester, body)
    found = checked(pytester)
    assert found
    assert {result["status"] for result in found} == {"PASS"}
    assert len({result["name"] for result in found}) == len(found)


# --------------------------------------------------------------------------------------------------------------- marks
def test_marks_of_module_class_and_test_merge_and_the_closest_wins(pytester: pytest.Pytester) -> None:
    body = """
pytestmark = pytest.mark.parity(examples=2, seed=1, level="full", strict=False)

@pytest.mark.parity(examples=4, backward=False, train_steps=0)
class TestIt:
    @pytest.mark.parity(examples=5, dtype="float64", modes=("eval",), budget=50, device="cpu")
    def test_it(self, parity):
        parity(double, twice, (X,))
"""
    makes(pytester, body)
    (result,) = checked(pytester, "--strict-markers")
    wanted: Mapping[str, Any] = {
        "examples": 5, "seed": 1, "level": "full", "strict": False, "backward": False, "steps": 0, "dtype": "float64",
        "modes": ["eval"], "budget": 50.0,
    }  # fmt: skip
    assert {name: result["settings"][name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("exampels=3", "unknown keyword 'exampels'; did you mean examples?"),
        ("3", "takes keywords only, not 3; known are examples, device"),
        ("examples=0", "examples must be a whole number of at least 1, not 0"),
        ("examples=True", "examples must be a whole number"),
        ("device='tpu'", "device must be cpu, cuda, cuda:N or all, not 'tpu'"),
        ("backward=1", "backward must be True or False, not 1"),
        ("dtype='float16'", "dtype must be both, float64 or own, not 'float16'"),
        ("budget='long'", "budget must be a number of seconds above 0, not 'long'"),
        ("modes='eval'", "modes must be some of 'eval' and 'train', in a tuple, not 'eval'"),
        ("level='best'", "level must be quick, full or thorough, not 'best'"),
        ("train_steps=-1", "train_steps must be a whole number of at least 0, not -1"),
    ],
)
def test_a_mark_that_says_nothing_is_an_error_of_the_test(pytester: pytest.Pytester, mark: str, said: str) -> None:
    """Before the test begins. One that does not use the fixture may have a mark of that name of its own."""
    makes(
        pytester,
        f"@pytest.mark.parity({mark})\ndef test_it(parity): pass\n"
        f"@pytest.mark.parity({mark})\ndef test_another(): pass\n",
    )
    run = pytester.runpytest()
    run.assert_outcomes(errors=1, passed=1)
    run.stdout.fnmatch_lines([f"@pytest.mark.parity*{said.replace('[', '[[]')}*"])
    assert "Traceback" not in run.stdout.str()


def test_the_marker_and_the_options_are_in_the_help(pytester: pytest.Pytester) -> None:
    assert "@pytest.mark.parity(examples=, device=, " in pytester.runpytest("--markers").stdout.str()
    told = pytester.runpytest("--help").stdout.str()
    for name in ("device", "examples", "budget", "profile", "seed", "report", "update-baseline"):
        assert f"--parity-{name}" in told
        assert f"parity_{name}" in told or name == "update-baseline"
    assert "parity_baseline (string)" in told


def test_hypothesis_settings_of_the_outer_run_are_as_they_were() -> None:
    """What the fixture `alone` is for: no inner run's profile is left behind."""
    assert hypothesis.settings.get_current_profile_name() != "mine"
