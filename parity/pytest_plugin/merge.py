"""What all tests of a session have checked, as one record, whichever process checked it.

    report.isomorph_results, report.isomorph_baselines -> Collector.add -> Record -> report/faces.write (DIR)
                                                                       -> Baselines.write (the file of baselines)

One collector, in the process that has no `workerinput`: pytest's own, or xdist's controller. The order of the results
is that of file, line and node id, not that in which tests ended. Of a test that was run again the last run counts. A
test that uses `parity` and ended without a result, because it raised before or its worker died, is an ERROR of its own:
a record would be a PASS without it.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isomorph.convert.errors import IsomorphError
from isomorph.parity.pytest_plugin.baseline import baselines_of, device_of, node_of
from isomorph.parity.pytest_plugin.census import Census
from isomorph.parity.pytest_plugin.options import option
from isomorph.parity.record import Place, Record, Result, Waived

__all__ = ["Collector"]


@dataclass
class _Test:
    """The last run of one test. failed: the first line of what went wrong. lost: its process died."""

    results: list[Result] = field(default_factory=list)
    baselines: list[Mapping[str, Any]] = field(default_factory=list)
    place: Place | None = None
    failed: str = ""
    lost: bool = False


class Collector:
    """See the module. started: `time.time()` of the session's start.

    After `finish`: record, the record; written, the report's folder or None; told, lines for the summary.
    """

    def __init__(self, config: pytest.Config, started: float | None = None) -> None:
        self.config = config
        self.started = time.time() if started is None else started
        self.told: list[str] = []
        self.written: Path | None = None
        self.record = Record(())
        self._tests: dict[str, _Test] = {}

    # ------------------------------------------------------------------------------------------------ while it runs
    def add(self, report: pytest.TestReport) -> None:
        """A report of any phase of a test that checks something; one of "setup" begins another run of the test."""
        if report.when == "setup":
            self._tests.pop(report.nodeid, None)
        test = self._tests.setdefault(report.nodeid, _Test())
        found = [Result.from_dict(said) for said in getattr(report, "isomorph_results", None) or ()]
        test.results += [_expected(report, result) for result in found]
        test.baselines += getattr(report, "isomorph_baselines", None) or []
        test.lost |= report.when not in ("setup", "call", "teardown")  # as xdist reports a worker that crashed
        test.place = test.place or _place(report)
        if report.failed and not test.failed:
            test.failed = _first_line(report)

    def knows(self, node_id: str) -> bool:
        """Whether a report of that test was added."""
        return node_id in self._tests

    @property
    def results(self) -> tuple[Result, ...]:
        """So far, in their order."""
        return tuple(result for node_id in self._ordered() for result in self._of(node_id))

    @property
    def baselines(self) -> list[Mapping[str, Any]]:
        """What `Baselines.judge` said, as `Said`, in the same order."""
        return [said for node_id in self._ordered() for said in self._tests[node_id].baselines]

    # ------------------------------------------------------------------------------------------------ at its end
    def finish(self, session: pytest.Session, uncollected: Iterable[pytest.CollectReport] = ()) -> None:
        """Make the record, write what was asked for. A file that cannot be written fails the session.

        uncollected: reports of what could not be collected. A gate file is an ERROR: it has checks; others may have."""
        if self.config.option.collectonly:
            return
        missing = {report.nodeid or ".": _first_line(report) for report in uncollected}
        for node_id, text in missing.items():
            if node_id.endswith(".toml"):
                error = Result(node_id, "ERROR", f"not collected: {text}", place=Place(node_id, 1))
                self._tests[node_id] = _Test([error], place=error.place)
        self._judge_waivers(session)
        results, notes = self.results, self._shortcomings(session, list(missing))
        if notes and results and all(result.passed for result in results):
            results += (Result("the whole run", "ERROR", f"it is not complete: {'; '.join(notes)}"),)
        self.record = Record(
            results, datetime.now(UTC).isoformat(timespec="seconds"), f"pytest: {self.config.rootpath.name}",
            shlex.join(["pytest", *map(str, self.config.invocation_params.args)]), _environment(),
            seconds=round(time.time() - self.started, 3), notes=tuple(notes),
        )  # fmt: skip
        try:
            self._write_baselines()
            self._write_report()
        except IsomorphError as error:
            self._fails(session, error)

    def _judge_waivers(self, session: pytest.Session) -> None:
        """Waivers of gate files that have expired or are not needed are failures, reported as if they were tests."""
        if not any(".toml::" in node_id for node_id in self._tests):
            return
        from isomorph.parity.pytest_plugin.collect import waiver_reports

        try:
            for report in waiver_reports(self.config, self.results):
                session.testscollected += 1
                self.config.hook.pytest_runtest_logreport(report=report)
                if report.failed and session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED
        except IsomorphError as error:
            self._fails(session, error)

    def _fails(self, session: pytest.Session, error: IsomorphError) -> None:
        self.told.append(f"error: {error}")
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _write_report(self) -> None:
        folder = option(self.config, "report")
        if folder:
            from isomorph.parity.report import faces

            self.written = self.config.invocation_params.dir / folder
            written = faces.write(self.record, os.path.join(self.written, ""))  # with a slash: a folder
            self.told += [f"reports: {self.written}", *written.notes]

    def _write_baselines(self) -> None:
        baselines, said = baselines_of(self.config), self.baselines
        self.told += baselines.summary(said)
        if baselines.update:
            census: Any = self.config.pluginmanager.get_plugin(Census.NAME)
            whole = isinstance(census, Census) and census.whole()
            self.told.append(baselines.write(said, partial(self._current, census=census) if whole else _any))

    # ------------------------------------------------------------------------------------------------ small things
    def _of(self, node_id: str) -> list[Result]:
        test = self._tests[node_id]
        if not test.failed or (test.results and not test.lost):
            return test.results
        what = "did not come to its end" if test.results else "ended before it had compared anything"
        name = f"{node_id} (lost)" if test.results else node_id
        return [*test.results, Result(name, "ERROR", f"the test {what}: {test.failed}", place=test.place)]

    def _ordered(self) -> list[str]:
        return sorted(self._tests, key=lambda node_id: (_placed(self._tests[node_id]), _natural(node_id)))

    def _current(self, key: str, census: Census) -> bool:
        """Whether the check of a baseline's entry is still made: its test is there, and did not pass without it."""
        node_id = node_of(key)
        test = self._tests.get(node_id)
        if test is None or test.failed or not test.baselines:
            return census.knows(node_id)
        devices = {device_of(said["key"]) for said in test.baselines}
        return device_of(key) not in devices or key in {said["key"] for said in test.baselines}

    def _shortcomings(self, session: pytest.Session, missing: Sequence[str]) -> list[str]:
        """What a reader of the record must know."""
        notes = [] if self._tests else ["no test compared any models"]
        if missing:
            notes.append(f"could not be collected, tests may be missing: {', '.join(missing)}")
        if session.exitstatus == pytest.ExitCode.INTERRUPTED:
            notes.append("the run was interrupted: tests are missing")
        elif session.shouldfail or session.shouldstop:
            notes.append(f"the run ended early: {session.shouldfail or session.shouldstop}")
        return notes


def _expected(report: pytest.TestReport, result: Result) -> Result:
    """A failure that the test is marked to expect is waived by that mark, as pytest itself has it."""
    reason = getattr(report, "wasxfail", None)
    if reason is None or result.passed or not report.skipped:
        return result
    finding = f"{result.status}: {result.message}"
    waived = Waived("xfail", str(reason) or "no reason given", report.nodeid, "", (finding,))
    said = f"waived by xfail: {finding}"
    return replace(result, status="PASS", waived=(*result.waived, waived), message=said)


def _any(key: str) -> bool:
    return True


def _environment() -> dict[str, str]:
    from isomorph.parity.environment import environment

    return {**environment(), "pytest": pytest.__version__}


def _place(report: pytest.TestReport) -> Place:
    file, line, _ = report.location
    return Place(Path(file).as_posix(), (line or 0) + 1)


def _placed(test: _Test) -> tuple[str, int]:
    place = next((result.place for result in test.results if result.place is not None), test.place)
    return (place.file, place.line) if place is not None else ("", 0)


def _first_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = getattr(crash, "message", None) or str(report.longrepr or "")
    return (text.strip().splitlines() or ["it failed"])[0][:300]


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key in which "x[10]" comes after "x[9]"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]
