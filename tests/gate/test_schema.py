"""The documented schemas are those of what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from isomorph.parity import record, verdict
from isomorph.parity.console import json_text
from isomorph.parity.gate import schema, statement

from .verdicts import VERDICT

FOLDER = Path(__file__).parents[2] / "docs" / "schema"


@pytest.mark.parametrize(("name", "made"), [("report-1.json", schema.of_report), ("verdict-1.json", schema.of_verdict)])
def test_the_documented_one_is_up_to_date(name: str, made: Any) -> None:
    again = "python -m isomorph.parity.gate.schema docs/schema"
    assert json.loads((FOLDER / name).read_text()) == made(), f"{name} is out of date: {again}"


def written() -> tuple[dict[str, Any], dict[str, Any]]:
    """A verdict and a record with something in every field."""
    case = verdict.Case("normal", 1, (("b", 2),))
    judged = verdict.Verdict(
        "FAIL", (verdict.Check("structure", "output", "eval", "float64", 1, 0, 1, 0, 0, 1, float("inf")),),
        (verdict.Mismatch("value", "output", "0", case=case, position=(1, 2)),), {"modes": ["eval"]}, 3,
        {"torch": "2"}, {"reproducer": "x"}, verdict.Counterexample("value", "output", "0", "eval", case, {"x": {}}),
        (verdict.Located("forward", "l", "Linear", "", (verdict.ModuleError("l", "Linear", 0, "d", 1.0, None, 1.0),)),),
        (verdict.Evidence("structure", "output", "0", "eval", "float64", error=float("nan")),),
        (verdict.ModuleProfile("l", "Linear", parameters=("l.weight",)),),
        (verdict.Distribution("structure", "output", "float64", (1.0, 2.0), (3,)),),
    ).to_dict()  # fmt: skip
    result = record.Result(
        "m::check[cpu,both]", "FAIL", verdict=judged, budgets=(record.BudgetLine("size", 1.0, None, "bytes"),),
        waived=(record.Waived("w", "r", "o", "2027-01-01", ("f",)),), subjects=(record.Subject("original", "x"),),
        place=record.Place("isomorph.toml", 3), settings={"level": "full"}, artifacts={"reproducer": "x"},
    )  # fmt: skip
    made = record.Record(
        (result,), "2026-11-20T12:00:00Z", environment={"torch": "2"}, policy={"file": "x"}, notes=("n",)
    )
    return json.loads(json_text(judged)), json.loads(json_text(made.to_dict()))


def test_what_is_written_is_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for document, made in zip(written(), (schema.of_verdict(), schema.of_report()), strict=True):
        checker = jsonschema.Draft202012Validator(made)
        checker.check_schema(made)
        checker.validate(document)
        assert set(document) == set(made["required"])  # no field that the schema does not know


def test_what_is_not_is_not() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema.of_report())
    _, document = written()
    document["results"][0]["verdict"]["checks"][0]["compared"] = "many"
    (found,) = checker.iter_errors(document)
    assert list(found.absolute_path) == ["results", 0, "verdict"]


def test_the_statement_has_the_same_states() -> None:
    said = json.loads((FOLDER / "gate-verdict-v1.json").read_text())
    assert set(said["$defs"]["Status"]["enum"]) == {*get_args(record.Status), statement.INCOMPLETE}
    assert said["$defs"]["Verdict"]["properties"]["status"]["enum"] == list(get_args(verdict.Status))
    assert said["properties"]["predicateType"]["const"] == statement.PREDICATE
    assert set(VERDICT) <= set(schema.of_verdict()["required"])
