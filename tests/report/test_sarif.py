"""SARIF: valid by the rules of the standard, and what code review makes of it: alerts, places, the same alert again."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from isomorph.parity.record import EXIT_CODES, BudgetLine, Place, Record, Result, Status, Waived
from isomorph.parity.report import sarif
from isomorph.parity.verdict import Mismatch
from tests.report import nasty, records, verdicts
from tests.report.sarif_schema import LOG

ALL = (records.passed, records.failed, records.gate, records.hostile, records.large, nasty.record, nasty.empty)


def run(record: Record) -> dict[str, Any]:
    document = json.loads(sarif.draw(record), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(document, LOG, jsonschema.Draft202012Validator)
    (found,) = document["runs"]
    return dict(found)


@pytest.mark.parametrize("make", ALL)
def test_every_record_is_valid(make: Callable[[], Record]) -> None:
    found = run(make())
    rules = found["tool"]["driver"]["rules"]
    for result in found["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["help"]["markdown"]


def test_the_schema_refuses() -> None:
    """The validation above can fail."""
    good = json.loads(sarif.draw(records.failed()))
    for spoil in (
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
        lambda run: run["tool"]["driver"]["rules"].append(run["tool"]["driver"]["rules"][0]),
        lambda run: run["invocations"][0].update(endTimeUtc="2026-03-01 12:00"),
        lambda run: run["results"][0].update(place="here"),
    ):
        bad = copy.deepcopy(good)
        spoil(bad["runs"][0])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, LOG, jsonschema.Draft202012Validator)


def test_a_mismatch_is_an_alert_at_the_place_that_asks() -> None:
    found = run(records.failed())
    first = found["results"][0]
    assert (first["ruleId"], first["level"], first["kind"]) == ("mismatch/value", "error", "fail")
    location = first["locations"][0]["physicalLocation"]
    assert location["artifactLocation"] == {"uri": "isomorph.toml", "uriBaseId": "%SRCROOT%"}
    assert location["region"] == {"startLine": 12}
    names = [item["fullyQualifiedName"] for item in first["locations"][0]["logicalLocations"]]
    assert names == ["digits", "output/0", "blocks.1.mlp.act"]
    assert "expected -0.103748753, got -0.127567403" in first["message"]["text"]
    tail = (
        "parts forward at blocks.1.mlp.act; parts backward at blocks.1.mlp.act; likely approximate='tanh', not 'none'"
    )
    assert tail in first["message"]["text"]
    assert first["message"]["text"].startswith("digits: output 0: value")
    assert len(found["results"]) == 4


def test_a_pass_is_no_alert() -> None:
    found = run(records.passed())
    assert found["results"] == []
    assert found["invocations"][0]["executionSuccessful"]
    assert found["artifacts"][0]["hashes"] == {"sha-256": "a7" * 32}
    assert found["tool"]["driver"]["version"] == "0.1.0"


@pytest.mark.parametrize("status", [status for status in EXIT_CODES if status != "PASS"])
def test_every_other_status_is_an_alert(status: Status) -> None:
    """Also where a verdict without mismatches, a kept budget or nothing at all is there."""
    good = verdicts.good()
    for result in (Result("a", status), Result("a", status, "why", verdict=good.to_dict())):
        (alert,) = run(Record((result,)))["results"]
        assert alert["level"] == "error"
        assert alert["ruleId"] == f"status/{status}"


def test_each_kind_of_mismatch_has_its_rule() -> None:
    kinds = tuple(Mismatch(kind, "output", "0") for kind in sarif.KINDS)
    verdict = replace(verdicts.bad(), mismatches=kinds)
    rules = run(records.record(records.result("a", verdict)))["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [f"mismatch/{kind}" for kind in sarif.KINDS]
    assert len({rule["shortDescription"]["text"] for rule in rules}) >= len(rules) - 1


def test_no_kind_that_the_code_makes_is_without_a_rule() -> None:
    """Found where findings are made: rejected under a kind, or with an outcome that is one."""
    made = set()
    for file in (Path(__file__).parents[2] / "parity").rglob("*.py"):
        made |= set(re.findall(r'(?:\.reject\(|outcome=|Finding\()\s*"([a-z]+)"', file.read_text()))
    assert {"value", "leak", "kink", "frozen", "batch"} <= made, "the search finds them"
    assert made - {"equal", "inconclusive", "vacuous"} <= set(sarif.KINDS)


def test_budgets_are_alerts_of_their_own() -> None:
    found = [item for item in run(records.gate())["results"] if item["ruleId"].startswith("budget/")]
    assert [item["ruleId"] for item in found] == ["budget/latency_ratio", "budget/memory"]
    assert "1.93x of 1.5x allowed, not kept" in found[0]["message"]["text"]


# ------------------------------------------------------------------------------------------------------ fingerprints
def marks(record: Record) -> list[str]:
    return [item["partialFingerprints"]["primaryLocationLineHash"] for item in run(record)["results"]]


def test_the_next_run_has_the_same_alerts() -> None:
    """Other figures, another example, another line of the file: the same finding."""
    record = records.failed()
    verdict = verdicts.bad()
    other = tuple(replace(m, error=m.error * 2, position=(3,), case=None, examples=1) for m in verdict.mismatches)
    moved = records.result("digits", replace(verdict, mismatches=other), place=Place("isomorph.toml", 90), seconds=1.0)
    assert marks(records.record(moved, created="2027-01-01T00:00:00Z")) == marks(record)


def test_what_differs_is_another_alert() -> None:
    """Also on the same line, where GitHub would take them for one."""
    record = records.gate()
    assert len(set(marks(record))) == len(marks(record))
    verdict = verdicts.bad()
    names = tuple(replace(m, name=f"{m.name}.other") for m in verdict.mismatches)
    changed = records.record(records.result("digits", replace(verdict, mismatches=names)))
    assert not set(marks(changed)) & set(marks(records.failed()))


# ------------------------------------------------------------------------------------------------------------ waived
def test_a_waived_finding_is_a_suppressed_note() -> None:
    verdict = verdicts.bad()
    waived = Waived("stem", "known", "Ada", "2027-03-01", ("value/parameter gradient/stem.weight",))
    found = run(records.record(records.result("digits", verdict, waived=(waived,))))["results"]
    by_level = {item["level"]: item for item in found}
    assert sorted(item["level"] for item in found) == ["error", "error", "error", "note"]
    (suppression,) = by_level["note"]["suppressions"]
    assert suppression["status"] == "accepted"
    assert suppression["justification"] == "stem: known (Ada, until 2027-03-01)"
    assert "suppressions" not in by_level["error"]


def test_a_waived_budget_is_a_suppressed_note() -> None:
    budget = BudgetLine("size", 1e6, 2e6, "bytes")
    waived = Waived("big", "known", "Ada", "", ("budget/size",))
    result = Result("a::budget[size]", "PASS", budgets=(budget,), waived=(waived,))
    (item,) = run(Record((result,)))["results"]
    assert (item["ruleId"], item["level"]) == ("budget/size", "note")
    assert item["suppressions"][0]["justification"] == "big: known (Ada)"


def test_what_passed_stops_no_review() -> None:
    passed = records.result("digits", verdicts.bad(), status="PASS")
    assert {item["level"] for item in run(records.record(passed))["results"]} == {"note"}


# ------------------------------------------------------------------------------------------------------------- places
@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("a b/ü#1.py", {"uri": "a%20b/%C3%BC%231.py", "uriBaseId": "%SRCROOT%"}),
        ("a\\b.py", {"uri": "a/b.py", "uriBaseId": "%SRCROOT%"}),
        ("/x/y z.py", {"uri": "file:///x/y%20z.py"}),
        ("./c:d.py", {"uri": "c%3Ad.py", "uriBaseId": "%SRCROOT%"}),
    ],
)
def test_places_are_uris(file: str, uri: dict[str, str]) -> None:
    (item,) = run(Record((Result("a", "ERROR", place=Place(file, 0)),)))["results"]
    assert item["locations"][0]["physicalLocation"] == {"artifactLocation": uri, "region": {"startLine": 1}}


def test_a_result_without_a_place_is_shown_at_the_policy() -> None:
    (item,) = run(Record((Result("a", "ERROR"),), policy={"file": "isomorph.toml"}))["results"]
    assert item["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "isomorph.toml"
    (item,) = run(Record((Result("a", "ERROR", original="timm:a b"),)))["results"]
    assert item["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "timm%3Aa%20b"


def test_a_message_has_no_links() -> None:
    (item,) = run(Record((Result("a", "ERROR", "see [0](1), [cpu]"),)))["results"]
    assert item["message"]["text"] == "a: see \\[0\\](1), [cpu]"


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "RESULTS", 2)
    found = run(records.failed())
    assert len(found["results"]) == 2
    (note,) = found["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "2 of 4 findings are left out: one run has at most 2"


def test_nothing_was_run() -> None:
    """No alert has a place then: the invocation says it."""
    (invocation,) = run(nasty.empty())["invocations"]
    assert not invocation["executionSuccessful"]
    assert invocation["exitCode"] == 5
    assert "nothing was proven" in invocation["toolExecutionNotifications"][0]["message"]["text"]
