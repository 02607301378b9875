"""JUnit XML as CI systems read it: counts, what is a failure and what an error, figures, places."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from junitparser import Error, Failure, JUnitXml, TestCase

from isomorph.parity.record import EXIT_CODES, Record, Result, Status
from isomorph.parity.report import junit
from tests.report import nasty, records


def cases(record: Record) -> dict[str, TestCase]:
    return {case.name: case for suite in JUnitXml.fromstring(junit.draw(record).encode()) for case in suite}


def properties(case: TestCase) -> dict[str, str]:
    return {item.get("name"): item.get("value") for item in case._elem.iter("property")}


def test_the_counts_are_right() -> None:
    record = records.gate()
    (suite,) = JUnitXml.fromstring(junit.draw(record).encode())
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == ("isomorph gate", 11, 5, 4, 0)
    assert suite.time == pytest.approx(record.seconds)
    assert suite.timestamp == "2026-03-01T12:00:00"
    about = {item.name: item.value for item in suite.properties()}
    assert about["parity.policy.sha256"] == "5c" * 32
    assert about["parity.status"] == "ERROR"
    assert about["parity.environment.keras"] == "3.15.1"
    assert about["parity.command"] == record.command


@pytest.mark.parametrize("status", EXIT_CODES)
def test_only_a_pass_looks_green(status: Status) -> None:
    (case,) = cases(Record((Result("a::b", status, "because"),))).values()
    if status == "PASS":
        assert case.is_passed
        return
    (said,) = case.result
    judged = status in ("FAIL", "REGRESSION", "BUDGET", "WAIVER_EXPIRED", "WAIVER_UNUSED")
    assert type(said) is (Failure if judged else Error)
    assert (said.message, said.type) == ("because", status)


def test_nothing_is_an_error() -> None:
    (case,) = cases(nasty.empty()).values()
    assert case.is_error
    assert "nothing was proven" in case.result[0].message


def test_a_failure_says_what_differs_and_how_to_get_it_again() -> None:
    (case,) = cases(records.failed()).values()
    text = case.result[0].text
    assert "parameter gradient stem.weight: value (train float64)" in text
    assert "parts forward at blocks.1.mlp.act (GELU)" in text
    assert "reproducer: reproducers/digits" in text
    assert (case._elem.get("file"), case._elem.get("line")) == ("isomorph.toml", "12")
    assert case.time == pytest.approx(5.47)


def test_the_figures_are_properties() -> None:
    result = records.failed().results[0]
    assert result.verdict is not None
    found = properties(next(iter(cases(records.failed()).values())))
    checks = [c for c in result.verdict["checks"] if (c["stage"], c["quantity"]) == ("structure", "output")]
    worst = max(checks, key=lambda check: check["worst"] / check["tolerance"])
    assert float(found["parity.worst.structure.output"]) == worst["worst"]
    assert float(found["parity.tolerance.structure.output"]) == worst["tolerance"]
    assert found["parity.ratio.precision.parameter_gradient"] == "1.07"
    assert int(found["parity.compared"]) == sum(check["compared"] for check in result.verdict["checks"])
    assert (found["parity.status"], found["parity.seed"], found["parity.examples"]) == ("FAIL", "0", "32")
    assert found["parity.sha256.converted"] == "a7" * 32


def test_budgets_waivers_and_the_cache() -> None:
    found = cases(records.gate())
    budget = found["digits::budget[latency_ratio]"]
    assert properties(budget)["parity.budget.latency_ratio"] == "1.93 of 1.5"
    assert "memory: not measured of 1 GB allowed, not kept (the worker ended" in budget.result[0].text
    assert "size" not in budget.result[0].text, "this one is kept"
    waived = found["resnet::check[cpu,float64]"]
    assert "until 2027-03-01" in properties(waived)["parity.waiver.gelu-tanh"]
    assert properties(found["drift::check[cpu,both]"])["parity.cached"] == "true"
    assert waived.classname == "resnet"


def test_names_of_all_signs_are_xml() -> None:
    """A standard parser reads it, and nothing of a name is lost."""
    root = ElementTree.fromstring(junit.draw(nasty.record()).encode())
    names = [case.get("name") for case in root.iter("testcase")]
    assert names[0] is not None
    assert names[0].startswith("a\\x00b\\x1b[31m\\ud800\\ufffe|`<b>&\"'")
    assert "é 模型 ## second line" in names[0]
    assert len(names) == 3


def test_seconds_that_are_no_number_add_up() -> None:
    record = records.passed()
    record = replace(record, results=(replace(record.results[0], seconds=float("nan")),), seconds=float("inf"))
    (suite,) = JUnitXml.fromstring(junit.draw(record).encode())
    assert suite.time == 0
