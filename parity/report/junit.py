"""A record as JUnit XML, for CI: one test suite, one case for each result. Drawn by junitparser (extra `report`).

A case fails where the models were judged and did not pass, and is an error where nothing could be judged; it is never
skipped, and a record without results is one error: what was not proven must not look green.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

from junitparser import Attr, Error, Failure, JUnitXml, Properties, Property, SystemOut, TestCase, TestSuite

from isomorph.parity.record import Record, Result

from .restore import number, restore
from .texts import MEANS, budget, counts, figures, headline, line, plain, waiver

__all__ = ["draw"]

# The other statuses that are no PASS say that nothing was judged: errors.
FAILURES = ("FAIL", "REGRESSION", "BUDGET", "WAIVER_EXPIRED", "WAIVER_UNUSED")


class _Case(TestCase):  # type: ignore[misc]  # with what CI systems read to show the place
    file = Attr()
    line = Attr()


def draw(record: Record) -> str:
    """The document."""
    suite = TestSuite(line(record.title) or "isomorph")
    if record.created:
        suite.timestamp = line(record.created).removesuffix("Z")
    for name, value in _about(record):
        suite.add_property(line(name), plain(value))
    cases = [_case(result) for result in record.results] or [_nothing(record)]
    suite.add_testcases(cases)
    suite.time = max(_time(record.seconds), sum(case.time for case in cases))
    document = JUnitXml(suite.name)
    document.add_testsuite(suite)
    file = io.BytesIO()
    document.write(file)
    return file.getvalue().decode()


def _about(record: Record) -> Iterable[tuple[str, str]]:
    yield "parity.status", record.status
    if record.command:
        yield "parity.command", record.command
    for name, value in (record.policy or {}).items():
        yield f"parity.policy.{name}", str(value)
    for name, value in record.environment.items():
        yield f"parity.environment.{name}", str(value)
    for index, note in enumerate(record.notes):
        yield f"parity.note.{index}", note


def _time(value: Any) -> float:
    """Seconds that CI systems can add up."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else 0.0


def _case(result: Result) -> _Case:
    name = line(result.name)
    case = _Case(name, _classname(result, name), _time(result.seconds))
    if result.place is not None:
        case.file, case.line = line(result.place.file), str(result.place.line)
    properties = Properties()
    for key, value in figures(result).items():
        properties.add_property(Property(key, value))
    case.append(properties)
    if not result.passed:
        kind = Failure if result.status in FAILURES else Error
        said = kind(headline(result), result.status)
        said.text = "\n".join(_detail(result))
        case.append(said)
    case.append(SystemOut("\n".join(_said(result))))
    return case


def _classname(result: Result, name: str) -> str:
    """What groups the cases: the model before "::", else the file that asks for it."""
    model, two, _ = name.partition("::")
    if two:
        return model
    return line(result.place.file) if result.place else "isomorph"


def _nothing(record: Record) -> _Case:
    case = _Case(line(record.title) or "isomorph", "isomorph", _time(record.seconds))
    case.append(Error(counts(record), record.status))
    return case


def _detail(result: Result) -> Iterable[str]:
    """What stands against it: as the text of a failure, which CI systems show."""
    yield headline(result)
    verdict = restore(result.verdict)
    if verdict is not None:
        yield plain(verdict.summary())
    yield from (budget(row) for row in result.budgets if not row.kept)
    yield from (f"{line(name)}: {line(path)}" for name, path in result.artifacts.items())
    what = MEANS.get(result.status, ("", ""))[1]
    if what:
        yield what


def _said(result: Result) -> Iterable[str]:
    verdict = restore(result.verdict)
    if result.original or result.converted:
        yield line(f"{result.original} = {result.converted}")
    if verdict is not None and result.passed:
        yield plain(verdict.summary())
    yield from (f"budget {budget(row)}" for row in result.budgets)
    yield from (f"waived by {waiver(row)}" for row in result.waived)
