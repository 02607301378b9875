"""Waivers: what they cover, until when, and which are no longer needed. Pure."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isomorph.parity.gate.policy import Policy
from isomorph.parity.gate.tasks import tasks_of
from isomorph.parity.gate.waivers import apply, findings_of
from isomorph.parity.record import BudgetLine, Place, Result, Status
from isomorph.parity.verdict import Mismatch, Verdict

from .gate_files import gate

TEXT = """
[[model]]
name = "a"
source = "a.pt2"
artifact = "b.keras"
budgets = {{ size = 10, precision = 2 }}
[[model]]
name = "b"
source = "a.pt2"
artifact = "c.keras"
[[waiver]]
name = "known"
model = "a"
reason = "because"
owner = "me"
expires = 2027-03-01
finding = {}
"""
CHECK, SIZE, OTHER = "a::check[cpu,both]", "a::budget[size]", "b::check[cpu,both]"
DAY = datetime.date(2027, 3, 1)
VALUE = Mismatch("value", "output", "0")
GRADIENT = Mismatch("value", "parameter gradient", "first.weight")


def policy_of(tmp_path: Path, finding: str = '"value/output/*"') -> Policy:
    return gate(tmp_path, TEXT.format(finding))


def result(name: str, *mismatches: Mismatch, status: Status | None = None, **more: Any) -> Result:
    said: Status = status or ("FAIL" if mismatches else "PASS")
    verdict = Verdict("FAIL" if mismatches else "PASS", (), mismatches, {}, 0, {}).to_dict()
    return Result(name, said, "told", verdict=verdict, **more)


def whole(*changed: Result) -> tuple[Result, ...]:
    """The results of a complete run, some of them as given."""
    given = {one.name: one for one in changed}
    return tuple(given.get(name, result(name)) for name in (CHECK, SIZE, OTHER))


def statuses(results: tuple[Result, ...]) -> list[tuple[str, str]]:
    return [(one.name, one.status) for one in results]


def test_all_that_differs_is_covered(tmp_path: Path) -> None:
    judged, extra = apply(whole(result(CHECK, VALUE)), policy_of(tmp_path), DAY)
    assert extra == ()
    assert judged[0].status == "PASS"
    (waived,) = judged[0].waived
    assert (waived.name, waived.reason, waived.owner, waived.expires) == ("known", "because", "me", "2027-03-01")
    assert waived.findings == ("value/output/0",)
    assert judged[0].message == "waived by known"
    assert (judged[0].verdict or {})["status"] == "FAIL", "what was found stays as it is"
    assert judged[1:] == whole()[1:]


def test_what_is_covered_in_part_fails(tmp_path: Path) -> None:
    judged, extra = apply(whole(result(CHECK, VALUE, GRADIENT)), policy_of(tmp_path), DAY)
    assert (judged[0].status, extra) == ("FAIL", ())
    assert judged[0].message == "told; not waived: value/parameter gradient/first.weight"
    assert [waived.findings for waived in judged[0].waived] == [("value/output/0",)]


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("value/output/*", False),
        ("value/*/*", True),
        ("*/parameter gradient/*", True),
        ("value/parameter gradient/first.*", True),
        ("value/parameter gradient/first", False),
        ("VALUE/parameter gradient/*".lower(), True),
        ("kink/parameter gradient/*", False),
        ("v*/p*/first.weight", True),
        ("value/parameter gradient/[f]irst.weight", False),  # brackets are brackets
    ],
)
def test_patterns(tmp_path: Path, pattern: str, covered: bool) -> None:
    judged, _ = apply(whole(result(CHECK, GRADIENT)), policy_of(tmp_path, f'"{pattern}"'), DAY)
    assert judged[0].passed is covered


def test_several_patterns_and_waivers(tmp_path: Path) -> None:
    more = '\n[[waiver]]\nname = "two"\nmodel = "a"\nreason = "r"\nowner = "o"\nexpires = 2027-03-01\n'
    text = TEXT.format('["value/output/1", "value/output/0"]') + more + 'finding = "*/parameter gradient/*"\n'
    judged, extra = apply(whole(result(CHECK, VALUE, GRADIENT)), gate(tmp_path, text), DAY)
    assert (judged[0].status, [waived.name for waived in judged[0].waived], extra) == ("PASS", ["known", "two"], ())


def test_another_model_is_not_covered(tmp_path: Path) -> None:
    judged, extra = apply(whole(result(OTHER, VALUE)), policy_of(tmp_path), DAY)
    assert judged[2] == result(OTHER, VALUE)
    assert statuses(extra) == [("waiver::known", "WAIVER_UNUSED")]


def test_a_waiver_holds_until_its_day(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    judged, extra = apply(whole(result(CHECK, VALUE)), policy, DAY + datetime.timedelta(days=1))
    assert judged[0] == result(CHECK, VALUE)
    (told,) = extra
    assert (told.name, told.status) == ("waiver::known", "WAIVER_EXPIRED")
    assert "expired on 2027-03-01" in told.message
    assert told.place == Place(policy.file, policy.waivers[0].line)
    _, extra = apply(whole(), policy, DAY + datetime.timedelta(days=1))
    assert statuses(extra) == [("waiver::known", "WAIVER_EXPIRED")], "also where it was not needed"
    _, extra = apply((result(OTHER),), policy, DAY + datetime.timedelta(days=1))
    assert extra == (), "its model was not looked at"


def test_today_is_the_day_by_utc(tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    text = TEXT.format('"value/output/*"')
    for days, expected in ((0, "PASS"), (-2, "FAIL")):
        day = (today + datetime.timedelta(days=days)).isoformat()
        judged, _ = apply(whole(result(CHECK, VALUE)), gate(tmp_path, text.replace("2027-03-01", day)))
        assert judged[0].status == expected


def test_a_waiver_that_is_not_needed(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    judged, extra = apply(whole(), policy, DAY)
    assert judged == whole()
    assert [(one.name, one.status, one.exit) for one in map(_told, extra)] == [("waiver::known", "WAIVER_UNUSED", 10)]
    assert apply(whole()[:1], policy, DAY)[1] == (), "a run of a part cannot say"
    for status in ("ERROR", "NOT_FOUND", "UNSUPPORTED"):
        assert apply(whole(result(CHECK, status=status)), policy, DAY)[1] == (), "what there is to waive is not known"


class _told:
    def __init__(self, one: Result) -> None:
        from isomorph.parity.record import EXIT_CODES

        self.name, self.status, self.exit = one.name, one.status, EXIT_CODES[one.status]


def test_budgets(tmp_path: Path) -> None:
    over = result(SIZE, status="BUDGET", budgets=(BudgetLine("size", 10, 12.0, "bytes"),))
    assert findings_of(over) == ("budget/size",)
    judged, extra = apply(whole(over), policy_of(tmp_path, '"budget/size"'), DAY)
    assert (judged[1].status, judged[1].waived[0].findings, extra) == ("PASS", ("budget/size",), ())
    judged, _ = apply(whole(over), policy_of(tmp_path, '"budget/memory"'), DAY)
    assert judged[1].status == "BUDGET"
    both = result(CHECK, VALUE, budgets=(BudgetLine("precision", 2, 3.0, "x"),))
    for finding, status in (
        ('"value/output/0"', "FAIL"),
        ('"budget/precision"', "FAIL"),
        ('["value/output/0", "budget/precision"]', "PASS"),
    ):  # fmt: skip
        assert apply(whole(both), policy_of(tmp_path, finding), DAY)[0][0].status == status


def test_nothing_else_can_be_waived(tmp_path: Path) -> None:
    """What stands against a model beside its findings stays: an error, a check that compared nothing."""
    policy = policy_of(tmp_path)
    for status in ("ERROR", "NOTHING_COMPARED", "UNSUPPORTED", "NOT_FOUND"):
        assert apply(whole(result(CHECK, VALUE, status=status)), policy, DAY)[0][0].status == status


def test_a_waived_difference_hides_no_required_check(tmp_path: Path) -> None:
    failed = replace(result(CHECK, VALUE), settings={"unmet": {"steps": "not begun"}, "excused": {}})
    judged, extra = apply(whole(failed), policy_of(tmp_path), DAY)
    assert (judged[0].status, extra) == ("NOTHING_COMPARED", ())
    assert judged[0].message == "required, and nothing was compared: steps (not begun)"
    lenient = replace(failed, settings={"unmet": {}, "excused": {"steps": "not begun, as", "dropout": "draws nothing"}})
    judged, _ = apply(whole(lenient), policy_of(tmp_path), DAY)
    assert judged[0].status == "PASS"
    assert judged[0].message == "waived by known; not begun after the difference that is waived: steps"


def test_names_are_those_of_the_tasks(tmp_path: Path) -> None:
    assert [task.name for task in tasks_of(policy_of(tmp_path))] == [CHECK, SIZE, OTHER]
