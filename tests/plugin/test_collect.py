"""A gate file as tests: what is collected, how it fails, waivers, and that the rest of pytest works on it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from isomorph.parity.gate import budgets, execute, making, policy, required, tasks, waivers
from isomorph.parity.pytest_plugin import collect
from isomorph.parity.record import EXIT_CODES, Record
from tests.plugin.inner import checked

pytest_plugins = ("pytester",)
__all__ = ["budgets", "collect", "execute", "making", "policy", "required", "tasks", "waivers"]  # stay imported

TOMORROW = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
MODULE = """
import numpy as np
def double(x): return x * 2
def twice(x): return x + x
def wrong(x): return x * np.float32(2.5)
"""
DEFAULTS = """
[defaults]
level = "quick"
inputs = ["x=float32[b,4]"]
checks = ["outputs"]
"""


def model(name: str, artifact: str, more: str = "") -> str:
    return f'[[model]]\nname = "{name}"\nsource = "gated_functions:double"\nartifact = "{artifact}"\n{more}\n'


def waiver(name: str, of: str, expires: str = TOMORROW, finding: str = "value/output/*") -> str:
    said = {"name": name, "model": of, "reason": "it is known", "owner": "us", "finding": finding}
    return "[[waiver]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in said.items()) + f"expires = {expires}\n"


SAME = model("same", "gated_functions:twice", 'dtypes = ["both", "own"]')
DIFFERS = model("differs", "gated_functions:wrong")
ABSENT = model("absent", "gated_functions:nothing")


@pytest.fixture
def gate(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with functions to compare and a gate over three models."""
    pytester.makepyfile(gated_functions=MODULE)
    write(pytester, DEFAULTS + SAME + DIFFERS + ABSENT)
    return pytester


def write(pytester: pytest.Pytester, text: str, name: str = "isomorph.toml") -> str:
    file = pytester.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return name


def line_of(text: str, header: str) -> int:
    return text.splitlines().index(f'name = "{header}"')


IDS = [
    "isomorph.toml::same::check[cpu,both]", "isomorph.toml::same::check[cpu,own]",
    "isomorph.toml::differs::check[cpu,both]", "isomorph.toml::absent::check[cpu,both]",
]  # fmt: skip


def collected(pytester: pytest.Pytester, *args: str) -> list[str]:
    run = pytester.runpytest("--collect-only", "-q", *args)
    return [line for line in run.outlines if "::" in line]


# -------------------------------------------------------------------------------------------------- what is collected
def test_an_item_for_each_model_and_check(gate: pytest.Pytester) -> None:
    assert collected(gate, "isomorph.toml") == IDS


def test_a_part_of_it_by_node_id_and_by_name(gate: pytest.Pytester) -> None:
    assert collected(gate, IDS[1]) == IDS[1:2]
    assert collected(gate, "isomorph.toml::same") == IDS[:2]
    assert collected(gate, "isomorph.toml", "-k", "differs or own") == [IDS[1], IDS[2]]


def test_only_where_it_is_named_or_the_ini_file_says_so(gate: pytest.Pytester) -> None:
    write(gate, DEFAULTS + SAME, "other/x.isomorph.toml")
    write(gate, "[tool.other]\n", "pyproject.toml")
    write(gate, "[tool", "deep/pyproject.toml")
    assert collected(gate) == []
    assert collected(gate, "other") == []
    assert collected(gate, "other/x.isomorph.toml") == [i.replace("isomorph", "other/x.isomorph") for i in IDS[:2]]
    gate.makeini("[pytest]\nparity_gate = true\n")
    assert collected(gate) == [*IDS, *(i.replace("isomorph", "other/x.isomorph") for i in IDS[:2])]


def test_a_pyproject_with_the_section_is_a_gate_file(gate: pytest.Pytester) -> None:
    body = (DEFAULTS + SAME).replace("[defaults]", "[tool.isomorph.defaults]").replace("[[", "[[tool.isomorph.")
    write(gate, body, "pyproject.toml")
    ids = [i.replace("isomorph.toml", "pyproject.toml") for i in IDS[:2]]
    assert collected(gate, "pyproject.toml") == ids
    gate.runpytest("pyproject.toml").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("isomorph.toml", DEFAULTS + SAME + "sauce = 1\n", "isomorph.toml:11: *unknown key 'sauce'*"),
        ("isomorph.toml", "[[model", "isomorph.toml: no valid TOML: *"),
        ("isomorph.toml", "", "*no [[][[]model]]*"),
        ("pyproject.toml", "[tool.other]\n", "*pyproject.toml has no [[]tool.isomorph]*"),
    ],
)
def test_a_bad_policy_is_a_collection_error_in_one_line(
    pytester: pytest.Pytester, name: str, text: str, said: str
) -> None:
    run = pytester.runpytest(write(pytester, text, name))
    assert run.ret == pytest.ExitCode.INTERRUPTED
    run.assert_outcomes(errors=1)
    first = next(at for at, line in enumerate(run.outlines) if "ERROR collecting" in line) + 1
    told = run.outlines[first : next(at for at, line in enumerate(run.outlines) if at > first and line[:3] == "===")]
    assert len(told) == 1
    run.stdout.fnmatch_lines([said])
    assert "Traceback" not in run.stdout.str()
    assert "collect.py" not in run.stdout.str()


# --------------------------------------------------------------------------------------------------------- how it runs
def test_results_are_those_of_the_gate_and_in_the_same_report(gate: pytest.Pytester) -> None:
    gate.makepyfile("from gated_functions import *\ndef test(parity): parity(double, twice, ['x=float32[b,4]'])\n")
    args = ("isomorph.toml", "test_results_are_those_of_the_gate_and_in_the_same_report.py", "--junitxml", "j.xml")
    gate.runpytest(*args, "--parity-report", "out").assert_outcomes(passed=3, failed=2)
    record = Record.from_dict(json.loads((gate.path / "out" / "report.json").read_text()))
    assert [(result.name, result.status) for result in record.results[:4]] == list(
        zip(IDS, ("PASS", "PASS", "FAIL", "NOT_FOUND"), strict=True)
    )
    assert len(record.results) == 5
    assert record.exit_code == EXIT_CODES["FAIL"]
    differs = record.results[2]
    text = (gate.path / "isomorph.toml").read_text()
    assert differs.place is not None
    assert (differs.place.file, differs.place.line) == ("isomorph.toml", line_of(text, "differs"))
    assert (gate.path / "out" / differs.artifacts["reproducer"] / "test_reproduce.py").is_file()
    cases = ET.parse(gate.path / "j.xml").iter("testcase")
    said = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert said["check[cpu,both]"]["parity.status"] in ("PASS", "FAIL", "NOT_FOUND")


def test_a_failure_is_readable_and_has_no_traceback(gate: pytest.Pytester) -> None:
    run = gate.runpytest("isomorph.toml")
    run.assert_outcomes(passed=2, failed=2)
    run.stdout.fnmatch_lines(
        ["_* differs::check?cpu,both? _*", "FAIL: gated_functions:double and gated_functions:wrong: output 0*",
         "  - output 0: value *", "reproducer: *", "seed 0, cpu; again: pytest 'isomorph.toml::differs::*'",
         "_* absent::check?cpu,both? _*", "NOT_FOUND: * gated_functions has no 'nothing'*",
         "FAIL isomorph.toml::differs::check?cpu,both?: *"],
    )  # fmt: skip
    assert "Traceback" not in run.stdout.str()
    assert "collect.py" not in run.stdout.str()


def test_an_exception_of_ours_is_shown_as_one(gate: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(execute, "execute", fails)
    run = gate.runpytest("isomorph.toml::same")
    run.assert_outcomes(failed=2)
    run.stdout.fnmatch_lines(
        ["*RuntimeError: a bug*", "ERROR isomorph.toml::same::check?cpu,both?: *RuntimeError: a bug", "2 * 2 ERROR"]
    )


def test_a_cache_that_cannot_be_written_is_as_none(gate: pytest.Pytester) -> None:
    gate.makefile("", **{".pytest_cache": "a file: as in a checkout that is read-only"})
    gate.runpytest("isomorph.toml").assert_outcomes(passed=2, failed=2)


def test_last_failed_runs_what_failed(gate: pytest.Pytester) -> None:
    gate.runpytest("isomorph.toml").assert_outcomes(passed=2, failed=2)
    assert collected(gate, "isomorph.toml", "--lf") == IDS[2:]
    write(gate, (DEFAULTS + SAME + DIFFERS).replace(":wrong", ":twice"))
    gate.runpytest("isomorph.toml", "--lf").assert_outcomes(passed=1)


def test_the_debugger_is_entered_at_a_failure(gate: pytest.Pytester) -> None:
    gate.makepyfile(
        quiet="""
        class Quiet:
            def __init__(self, *args, **more): pass
            def reset(self): pass
            def interaction(self, frame, traceback): print("entered at", traceback.tb_frame.f_code.co_name)
        """
    )
    gate.syspathinsert()
    run = gate.runpytest(IDS[2], "--pdb", "--pdbcls=quiet:Quiet")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*entered at *"])


def test_budgets_are_items(gate: pytest.Pytester) -> None:
    (gate.path / "made.onnx").write_bytes(b"0" * 2000)
    entry = model("sized", "made.onnx", 'budgets = { size = "1 kB" }').replace('checks = ["outputs"]', "")
    write(gate, DEFAULTS + entry)
    run = gate.runpytest("isomorph.toml::sized::budget[size]")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["BUDGET: *budget size: 2000 bytes is over the limit of *"])


def test_errors_are_held_against_baselines(gate: pytest.Pytester) -> None:
    gate.runpytest("isomorph.toml::same", "--parity-update-baseline").assert_outcomes(passed=2)
    entries = json.loads((gate.path / "parity-baseline.json").read_text())["entries"]
    assert list(entries) == [f"{name}#1" for name in IDS[:2]]
    gate.makepyfile(gated_functions=MODULE.replace("x + x", "(x + x) * (1 + 1e-12)"))
    run = gate.runpytest("isomorph.toml::same")
    run.stdout.fnmatch_lines(["REGRESSION: gated_functions:double and gated_functions:twice: structure, *"])
    assert run.ret == pytest.ExitCode.TESTS_FAILED


# ------------------------------------------------------------------------------------------------------------- waivers
def test_a_waiver_lets_pass_what_it_names(gate: pytest.Pytester) -> None:
    write(gate, DEFAULTS + SAME + DIFFERS + waiver("known", "differs"))
    run = gate.runpytest("isomorph.toml", "-v")
    run.assert_outcomes(passed=4)
    run.stdout.fnmatch_lines(
        ["isomorph.toml::differs::check?cpu,both? PASSED*", "isomorph.toml::waiver::known PASSED*"]
    )
    (result,) = checked(gate, IDS[2])
    assert (result["status"], result["waived"][0]["name"]) == ("PASS", "known")
    assert result["verdict"]["status"] == "FAIL"


def test_a_waiver_that_has_expired_fails_and_lets_nothing_pass(gate: pytest.Pytester) -> None:
    write(gate, DEFAULTS + SAME + DIFFERS + waiver("old", "differs", "2020-02-03"))
    run = gate.runpytest("isomorph.toml", "--parity-report", "out")
    run.assert_outcomes(passed=2, failed=2)
    run.stdout.fnmatch_lines(["_* waiver::old _*", "WAIVER_EXPIRED: waiver 'old' of differs expired on 2020-02-03*"])
    record = Record.from_dict(json.loads((gate.path / "out" / "report.json").read_text()))
    old = next(result for result in record.results if result.status == "WAIVER_EXPIRED")
    assert old.name == "isomorph.toml::waiver::old"
    assert old.place is not None
    assert old.place.line == line_of((gate.path / "isomorph.toml").read_text(), "old")


def test_a_waiver_that_is_not_needed_fails_a_complete_run_alone(gate: pytest.Pytester) -> None:
    write(gate, DEFAULTS + SAME + DIFFERS + waiver("needless", "same"))
    assert gate.runpytest(IDS[0]).ret == 0, "the other check of the model may need it"
    run = gate.runpytest("isomorph.toml::same", "--junitxml", "j.xml")
    run.assert_outcomes(passed=2, failed=1)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(["FAILED isomorph.toml::waiver::needless*"])
    (suite,) = ET.parse(gate.path / "j.xml").iter("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    write(gate, DEFAULTS + SAME + DIFFERS)
    gate.runpytest("isomorph.toml::same", "--lf").assert_outcomes(passed=2)
