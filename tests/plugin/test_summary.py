"""What a run says at its end, on the terminal and in JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.plugin.inner import FUNCTIONS, makes

pytest_plugins = ("pytester",)

BODY = """
def test_same(parity):
    parity(double, twice, (X,))
    parity(double, lambda x: 2 * x, (X,))

def test_differs(parity):
    parity(double, wrong, (X,))

def test_mistake(parity):
    parity(double, twice)

def test_other(): pass
"""
NUMBER = r"\d\.\de[+-]\d\d"
PASSED = rf"\d+ compared, worst {NUMBER} of {NUMBER}, \S+x own error, \d\.\d s"


def test_a_line_for_each_check_and_the_totals(pytester: pytest.Pytester) -> None:
    makes(pytester, BODY)
    run = pytester.runpytest()
    run.stdout.re_match_lines_random(
        [
            r"=+ parity =+",
            rf"PASS test_inner\.py::test_same: {PASSED}$",
            rf"PASS test_inner\.py::test_same #2: {PASSED}$",
            rf"FAIL test_inner\.py::test_differs: \d+ compared, worst {NUMBER} of {NUMBER}, .*; output .*expected",
            r"ERROR test_inner\.py::test_mistake: \d\.\d s; UsageError: a function says nothing of its inputs",
            r"4 parity checks: 2 PASS, 1 FAIL, 1 ERROR$",
        ]
    )


def test_quiet_says_the_totals_and_what_did_not_pass(pytester: pytest.Pytester) -> None:
    makes(pytester, BODY)
    told = pytester.runpytest("-q").stdout.str()
    assert "4 parity checks: 2 PASS, 1 FAIL, 1 ERROR" in told
    assert "FAIL test_inner.py::test_differs: " in told
    assert "PASS test_inner.py" not in told


@pytest.mark.parametrize("args", [(), ("--collect-only",)])
def test_nothing_is_said_where_nothing_was_checked(pytester: pytest.Pytester, args: tuple[str, ...]) -> None:
    makes(pytester, "def test_other(): pass\n" + ("def test_it(parity): parity(double, twice, (X,))\n" if args else ""))
    told = pytester.runpytest(*args).stdout.str()
    assert "= parity =" not in told
    assert "parity check" not in told


def test_the_folder_of_reports_is_named(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_it(parity): parity(double, twice, (X,))\n")
    pytester.runpytest("--parity-report=out").stdout.fnmatch_lines([f"*{pytester.path / 'out'}*"])
    assert (pytester.path / "out" / "report.json").is_file()


def test_a_folder_in_the_ini_file_is_beside_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    makes(pytester, "def test_it(parity): parity(double, twice, (X,))\n")
    pytester.makeini("[pytest]\nparity_report = out\n")
    monkeypatch.chdir(pytester.mkdir("elsewhere"))
    pytester.inline_run("..")
    assert (pytester.path / "out" / "report.json").is_file()


def test_it_is_beside_it_also_where_the_rootdir_is_another(pytester: pytest.Pytester) -> None:
    makes(pytester, "def test_it(parity): parity(double, twice, (X,))\n")
    pytester.makefile(".ini", **{"below/pytest": "[pytest]\nparity_report = out\n"})
    pytester.inline_run("-c", "below/pytest.ini", "--rootdir", ".", "test_inner.py")
    assert (pytester.path / "below" / "out" / "report.json").is_file()


def properties(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Test name -> its properties in a JUnit XML file."""
    cases = ElementTree.parse(file).getroot().iter("testcase")
    return {
        str(case.get("name")): [(str(p.get("name")), str(p.get("value"))) for p in case.iter("property")]
        for case in cases
    }


@pytest.mark.parametrize("args", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)])
def test_each_check_is_a_set_of_properties_in_junit(pytester: pytest.Pytester, args: tuple[str, ...]) -> None:
    makes(pytester, BODY, FUNCTIONS)  # the workers load no framework
    pytester.runpytest("--junit-xml=junit.xml", "--parity-seed=5", *args)
    found = properties(pytester.path / "junit.xml")
    assert found["test_other"] == []
    same, differs, mistake = found["test_same"], dict(found["test_differs"]), dict(found["test_mistake"])
    assert [value for name, value in same if name == "parity.status"] == ["PASS", "PASS"]
    assert [value for name, value in same if name == "parity.original"] == ["double", "double"]
    assert [name for name, _ in same[: len(same) // 2]] == [name for name, _ in same[len(same) // 2 :]]
    assert (differs["parity.status"], differs["parity.converted"]) == ("FAIL", "wrong")
    assert (differs["parity.seed"], differs["parity.device"]) == ("5", "cpu")
    assert "expected" in differs["parity.message"]
    assert float(differs["parity.worst.structure.output"]) > float(differs["parity.tolerance.structure.output"]) > 0
    assert int(differs["parity.compared"]) > 0
    assert int(differs["parity.examples"]) > 0
    assert float(differs["parity.seconds"]) > 0
    assert mistake["parity.status"] == "ERROR"
