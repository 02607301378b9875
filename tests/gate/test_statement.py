"""The verdict of a gate as an in-toto Statement: valid for the tools of that world, and a PASS only for a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.gate import digest, statement
from isomorph.parity.record import EXIT_CODES, Result, Subject, Waived

from .verdicts import NOW, VERDICT, passed, record, result

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "gate-verdict-v1.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("net.pt", "net.keras"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_it_says_what_the_verdict_rests_on(folder: Path) -> None:
    said = passed(folder)
    predicate = said["predicate"]
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert [(s["name"], s["digest"]) for s in said["subject"]] == [
        ("net.keras", {"sha256": digest.of(folder / "net.keras").sha256}),
        ("net.pt", {"sha256": digest.of(folder / "net.pt").sha256}),
    ]
    assert (predicate["status"], predicate["complete"], predicate["missing"]) == ("PASS", True, [])
    assert (predicate["created"], predicate["expires"]) == ("2026-11-20T12:00:00Z", "2026-12-20T12:00:00Z")
    assert predicate["policy"] == {"file": "isomorph.toml", "version": 3, "sha256": "b" * 64}
    assert predicate["verifier"]["name"] == "isomorph"
    (model,) = predicate["models"]
    (found,) = model["results"]
    assert (model["name"], found["device"], found["verdict"]["seed"]) == ("digits", "cpu", 7)
    assert found["settings"] == {"level": "full"}
    assert found["verdict"]["coverage"]["cases"] == 37
    assert found["verdict"]["checks"] == VERDICT["checks"]
    assert found["budgets"][0]["kept"] is True
    assert found["waivers"][0]["owner"] == "ann"


def test_in_totos_own_library_takes_it(folder: Path) -> None:
    pytest.importorskip("in_toto_attestation")
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    for said in (passed(folder), statement.of(record(), [], 30, NOW)):
        Statement.copy_from_pb(json_format.Parse(json.dumps(said), statement_pb2.Statement())).validate()


def test_the_documented_schema_describes_it(folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    jsonschema.Draft202012Validator.check_schema(schema)
    said = passed(folder)
    checker.validate(said)
    checker.validate(statement.of(record(), [], 30, NOW))
    for spoil in (lambda p: p.pop("expires"), lambda p: p.update(status="FINE"), lambda p: p["policy"].pop("version")):
        other = json.loads(json.dumps(said))
        spoil(other["predicate"])
        assert list(checker.iter_errors(other))


def test_the_type_is_a_uri_with_a_version() -> None:
    assert statement.PREDICATE.startswith("urn:uuid:")
    assert statement.PREDICATE.endswith("/v1")


def test_a_run_that_left_something_out_is_no_pass(folder: Path) -> None:
    found = result(folder)
    said = statement.of(record(found), [found.name, "digits::budget[size]"], 30, NOW)["predicate"]
    assert (said["status"], said["complete"], said["missing"]) == ("INCOMPLETE", False, ["digits::budget[size]"])


def test_a_run_without_a_model_that_a_hash_knows_is_no_pass() -> None:
    only = Result("m::check[cpu,both]", "PASS", verdict=VERDICT, subjects=(Subject("converted", "<Model>"),))
    said = statement.of(record(only), [only.name], 30, NOW)
    assert said["predicate"]["status"] == "INCOMPLETE"
    assert said["subject"] == [{"name": "isomorph.toml", "digest": {"sha256": "b" * 64}}]
    assert said["predicate"]["models"][0]["converted"][0]["digest"] == {}


@pytest.mark.parametrize("status", [status for status in EXIT_CODES if status != "PASS"])
def test_one_result_that_is_no_pass_decides_for_all(folder: Path, status: Any) -> None:
    bad = result(folder, "other::check[cpu,both]", status)
    said = statement.of(record(result(folder), bad), [], 30, NOW)["predicate"]
    assert said["status"] == status
    assert [model["status"] for model in said["models"]] == ["PASS", status]


def test_a_file_that_changed_between_two_checks_is_an_error(folder: Path) -> None:
    first = result(folder)
    (folder / "net.keras").write_text("another")
    second = result(folder, "digits::check[cuda:0,both]")
    said = statement.of(record(first, second), [], 30, NOW)["predicate"]
    assert (said["status"], said["models"][0]["status"]) == ("ERROR", "ERROR")


def test_directories_code_and_parts_have_hashes_of_their_own_names(folder: Path) -> None:
    subjects = (
        Subject("original", "net.py:Net", "code", "1" * 64),
        Subject("converted", "saved", "directory", "2" * 64, 10),
        Subject("converted", "net.onnx", "file", "3" * 64, 11),
        Subject("converted", "net.onnx.data", "data", "4" * 64, 12),
    )
    said = statement.of(record(result(folder, subjects=subjects)), [], 30, NOW)
    assert [s["digest"] for s in said["subject"]] == [
        {"dirHash": "2" * 64}, {"sha256": "3" * 64}, {"sha256": "4" * 64}, {"isomorphCode": "1" * 64}
    ]  # fmt: skip
    saved, net = said["predicate"]["models"][0]["converted"]
    assert saved["parts"] == []
    assert net["parts"] == [{"name": "net.onnx.data", "size": 12, "digest": {"sha256": "4" * 64}}]


def test_a_model_that_two_entries_share_is_one_subject(folder: Path) -> None:
    said = statement.of(record(result(folder), result(folder, "again::check[cpu,own]")), [], 30, NOW)
    assert [s["name"] for s in said["subject"]] == ["net.keras", "net.pt"]


def test_it_stays_small(folder: Path) -> None:
    many = {
        **VERDICT,
        "status": "FAIL",
        "coverage": {"parameters": {"untested": [f"layer{i}.weight" for i in range(5000)]}, "reason": "x" * 9999},
        "mismatches": [{"kind": "value", "quantity": "output", "name": str(i), "error": 1.0} for i in range(500)],
        "evidence": [{"name": "x" * 100}] * 5000,
        "modules": [{"path": "x" * 100}] * 2000,
    }
    said = statement.of(record(replace(result(folder, status="FAIL"), verdict=many)), [], 30, NOW)
    verdict = said["predicate"]["models"][0]["results"][0]["verdict"]
    assert verdict["mismatches_in_all"] == 500
    assert verdict["coverage"]["parameters"]["untested"][-1] == "... and 4968 more"
    assert len(json.dumps(said)) < 10_000


@pytest.mark.parametrize("policy", [None, {}, {"file": "x", "version": 1, "sha256": ""}])
def test_a_run_without_a_policy_has_no_statement(folder: Path, policy: Any) -> None:
    with pytest.raises(UsageError, match="without a policy"):
        statement.of(replace(record(result(folder)), policy=policy), [], 30, NOW)


@pytest.mark.parametrize(
    ("days", "expires"), [(0.5, NOW + timedelta(hours=12)), (1e12, datetime(9999, 12, 31, 12, tzinfo=UTC))]
)
def test_how_long_it_holds(folder: Path, days: float, expires: datetime) -> None:
    said = statement.of(record(result(folder)), [], days, NOW)["predicate"]
    assert said["expires"] == statement.timestamp(expires)


@pytest.mark.parametrize(
    ("day", "expires"),
    [
        ("2026-11-25", "2026-11-25T23:59:59Z"),
        ("2026-12-25", "2026-12-20T12:00:00Z"),
        ("2026-11-19", "2026-11-20T12:00:00Z"),  # the run went on past midnight
    ],
)
def test_it_holds_no_longer_than_somebody_answers(folder: Path, day: str, expires: str) -> None:
    waived = (Waived("a", "r", "o", "2099-01-01"), Waived("b", "r", "o", day))
    said = statement.of(record(result(folder, waived=waived)), [], 30, NOW)
    assert said["predicate"]["expires"] == expires


def test_the_time_is_told_in_utc() -> None:
    moment: Callable[[str], datetime] = datetime.fromisoformat
    assert statement.timestamp(moment("2026-11-20T13:00:00.5+02:00")) == "2026-11-20T11:00:00Z"
