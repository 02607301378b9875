"""One record of a session, whichever processes made it: merged, ordered, written once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isomorph.parity.gate import making, required, waivers
from isomorph.parity.pytest_plugin import collect
from isomorph.parity.pytest_plugin.baseline import SCHEMA
from isomorph.parity.pytest_plugin.merge import Collector
from isomorph.parity.record import Record
from isomorph.parity.report import faces
from tests.plugin.inner import HEAD

pytest_plugins = ("pytester",)
__all__ = ["collect", "faces", "making", "required", "waivers"]  # stay imported while runs inside come and go

LIGHT = HEAD.replace("import torch\n", "")
FIRST = """
def test_last_in_name(parity):
    parity(double, twice, (X,))

@pytest.mark.parametrize("k", [10, 9, 1])
def test_each(parity, k):
    parity(double, lambda x: twice(x) + 0 * k, (X,))
    parity(twice, double, (X,))

@pytest.mark.parametrize("name", ["wrong", "wrong.__call__"])
def test_differs(parity, name):
    parity("functions:double", f"functions:{name}", ["x=float32[b,3]"])

@pytest.mark.xfail(reason="known")
def test_known(parity):
    parity(double, wrong, (X,))

def test_raises_first(parity):
    raise RuntimeError("no model\\nat all")

@pytest.fixture
def ready(parity):
    parity(double, twice, (X,))

def test_in_a_fixture(ready):
    pass

def test_unrelated():
    pass
"""
SECOND = """
import os

def test_skipped(parity):
    pytest.skip("not here")

def test_dies(parity):
    parity(double, twice, (X,))
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)
"""
GATE = """
[[model]]
name = "same"
source = "functions:double"
artifact = "functions:twice"
inputs = ["x=float32[b,4]"]
level = "quick"
checks = ["outputs"]
[[waiver]]
name = "needless"
model = "same"
reason = "it was"
owner = "us"
expires = 2999-01-01
finding = "value/output/*"
"""
# Every process says when it writes the report. No example database: a failure that is kept there is replayed first by
# whatever test comes next.
SPY = """
import os
import hypothesis
from isomorph.parity.report import faces

hypothesis.settings.register_profile("forgets", database=None)
hypothesis.settings.load_profile("forgets")

def spied(record, path, write=faces.write):
    with open("written.log", "a") as file:
        file.write(f"{os.environ.get('PYTEST_XDIST_WORKER', 'controller')}\\n")
    return write(record, path)

faces.write = spied
"""

# Baselines of a test that is gone, and of two that are there and say nothing new.
OLD = {"environment": "old", "figures": {}, "how": {}, "seeds": [0]}
NAMES = ("test_gone.py::test#1", "test_a.py::test_skipped#1", "test_b.py::test_differs[wrong]#1")
KNOWN = {"schema": SCHEMA, "environments": {"old": {}}, "entries": dict.fromkeys(NAMES, OLD)}


def project(folder: Path) -> None:
    ini = "[pytest]\naddopts = -p no:cacheprovider\nparity_gate = true\n"
    files = {"test_b.py": LIGHT + FIRST, "test_a.py": LIGHT + SECOND, "isomorph.toml": GATE, "conftest.py": SPY,
             "functions.py": LIGHT, "pytest.ini": ini}  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The same project with two workers and without, each with a report and an update of the baselines."""
    folder = tmp_path_factory.mktemp("project")
    project(folder)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    found = SimpleNamespace()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "CI", "PYTEST_XDIST_TESTRUNUID", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    for name, options in (("plain", ["-p", "no:xdist"]), ("spread", ["-n", "2"])):
        found.__dict__[name] = _run(folder, name, options, environment)
    yield found
    patch.undo()


def _run(folder: Path, name: str, options: list[str], environment: Mapping[str, str]) -> SimpleNamespace:
    import subprocess
    import sys

    (folder / "written.log").unlink(missing_ok=True)
    (folder / "parity-baseline.json").write_text(json.dumps(KNOWN))
    arguments = ["--parity-report", name, "--parity-update-baseline"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return SimpleNamespace(
        code=done.returncode, out=done.stdout, folder=folder / name,
        record=json.loads((folder / name / "report.json").read_text()),
        written=(folder / "written.log").read_text().split(),
        baselines=json.loads((folder / "parity-baseline.json").read_text()),
    )  # fmt: skip


def steady(result: Mapping[str, Any]) -> Any:
    """A result without what the clock says."""
    if isinstance(result, Mapping):
        return {name: steady(value) for name, value in result.items() if name not in ("seconds", "timings")}
    return [steady(item) for item in result] if isinstance(result, list) else result


def named(run: SimpleNamespace) -> dict[str, Any]:
    return {result["name"]: steady(result) for result in run.record["results"]}


@pytest.mark.slow
def test_results_merged_from_workers_equal_those_of_one_process(runs: SimpleNamespace) -> None:
    plain, spread = named(runs.plain), named(runs.spread)
    crashed = spread.pop("test_a.py::test_dies")
    assert (plain.pop("test_a.py::test_dies")["status"], crashed["status"]) == ("PASS", "ERROR")
    for result in (*plain.values(), *spread.values()):  # the reproducers lie in the folder of each report
        result["verdict"] = result["verdict"] and {**result["verdict"], "artifacts": {}}
    assert spread == plain


@pytest.mark.slow
def test_the_order_is_that_of_files_and_lines_not_of_the_workers(runs: SimpleNamespace) -> None:
    expected = [
        "isomorph.toml::same::check[cpu,both]", "isomorph.toml::waiver::needless", "test_a.py::test_dies",
        "test_b.py::test_last_in_name", "test_b.py::test_each[1]", "test_b.py::test_each[1] #2",
        "test_b.py::test_each[9]", "test_b.py::test_each[9] #2", "test_b.py::test_each[10]",
        "test_b.py::test_each[10] #2", "test_b.py::test_differs[wrong.__call__]",
        "test_b.py::test_differs[wrong]", "test_b.py::test_known", "test_b.py::test_raises_first",
        "test_b.py::test_in_a_fixture",
    ]  # fmt: skip
    for run in (runs.plain, runs.spread):
        assert [result["name"] for result in run.record["results"]] == expected


@pytest.mark.slow
def test_the_report_is_written_once_by_the_controller(runs: SimpleNamespace) -> None:
    for run in (runs.plain, runs.spread):
        assert run.written == ["controller"]
        assert {"report.json", "report.html", "report.md", "junit.xml", "report.sarif"} <= {
            file.name for file in run.folder.iterdir()
        }
        assert f"reports: {run.folder}" in run.out


@pytest.mark.slow
def test_a_record_says_what_was_run(runs: SimpleNamespace) -> None:
    record = Record.from_dict(runs.spread.record)
    assert record.title.startswith("pytest: project")
    assert record.command.startswith("pytest --parity-report spread --parity-update-baseline")
    assert record.environment["pytest"] == pytest.__version__
    assert record.seconds > 0
    assert record.created
    assert record.status == "ERROR"


@pytest.mark.slow
def test_a_test_whose_worker_died_or_that_raised_first_is_an_error_of_its_own(runs: SimpleNamespace) -> None:
    dead = named(runs.spread)["test_a.py::test_dies"]
    assert "crashed while running" in dead["message"]
    assert dead["place"]["file"] == "test_a.py"
    raised = named(runs.plain)["test_b.py::test_raises_first"]
    assert (raised["status"], raised["verdict"]) == ("ERROR", None)
    assert raised["message"] == "the test ended before it had compared anything: RuntimeError: no model"


@pytest.mark.slow
def test_a_failure_that_is_expected_is_waived_by_its_mark(runs: SimpleNamespace) -> None:
    known = named(runs.spread)["test_b.py::test_known"]
    assert (known["status"], known["verdict"]["status"]) == ("PASS", "FAIL")
    (waived,) = known["waived"]
    assert (waived["name"], waived["reason"]) == ("xfail", "known")
    assert known["message"].startswith("waived by xfail: FAIL: output")


@pytest.mark.slow
def test_reproducers_of_workers_lie_in_the_folder_of_the_report(runs: SimpleNamespace) -> None:
    for run in (runs.plain, runs.spread):
        paths = [result["artifacts"]["reproducer"] for result in run.record["results"] if result["artifacts"]]
        assert len(set(paths)) == len(paths) == 2
        assert all((run.folder / path / "test_reproduce.py").is_file() for path in paths)


@pytest.mark.slow
def test_the_controller_writes_the_baselines_that_one_process_would(runs: SimpleNamespace) -> None:
    plain, spread = runs.plain.baselines, runs.spread.baselines
    del plain["entries"]["test_a.py::test_dies#1"]
    assert spread == plain
    assert "test_b.py::test_in_a_fixture#1" in spread["entries"]
    assert "isomorph.toml::same::check[cpu,both]#1" in spread["entries"]
    assert [name for name, entry in spread["entries"].items() if entry == OLD] == sorted(NAMES[1:])


@pytest.mark.slow
def test_a_waiver_that_is_not_needed_fails_once_at_the_end(runs: SimpleNamespace) -> None:
    for run in (runs.plain, runs.spread):
        assert run.code == pytest.ExitCode.TESTS_FAILED
        assert run.out.count("WAIVER_UNUSED: waiver 'needless' of same covers nothing any more: take it out") == 1
        assert "FAILED isomorph.toml::waiver::needless" in run.out


# -------------------------------------------------------------------------------------------------- without processes
def test_of_a_test_that_is_run_again_the_last_run_counts(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol
        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                item._initrequest()
                for report in runtestprotocol(item, nextitem=nextitem, log=False):
                    item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    body = (
        "import os\ndef test_flaky(parity):\n    os.path.exists('x') or (open('x', 'w'), parity(double, wrong, (X,)))\n"
    )
    pytester.makepyfile(test_inner=LIGHT + body + "    parity(double, twice, (X,))\n")
    pytester.runpytest("--parity-report", "out")
    (result,) = json.loads((pytester.path / "out" / "report.json").read_text())["results"]
    assert result["status"] == "PASS"


def test_a_report_is_written_also_where_nothing_was_checked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(): pass")
    pytester.makeini("[pytest]\nparity_report = out\n")
    pytester.runpytest("--collect-only")
    assert not (pytester.path / "out").exists()
    run = pytester.runpytest()
    assert run.ret == 0
    record = Record.from_dict(json.loads((pytester.path / "out" / "report.json").read_text()))
    assert (record.status, record.notes) == ("NOTHING_COMPARED", ("no test compared any models",))


def test_a_run_that_ended_early_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_inner=LIGHT + "def test(parity): assert 0\ndef test_more(parity): pass\n")
    pytester.runpytest("-x", "--parity-report", "out")
    record = Record.from_dict(json.loads((pytester.path / "out" / "report.json").read_text()))
    assert record.notes == ("the run ended early: stopping after 1 failures",)
    pytester.makepyfile(test_inner="def test(): raise KeyboardInterrupt")
    pytester.inline_run("--parity-report", "out", no_reraise_ctrlc=True)
    record = Record.from_dict(json.loads((pytester.path / "out" / "report.json").read_text()))
    assert "the run was interrupted: tests are missing" in record.notes

    body = "def test(parity): parity(double, twice, (X,))\ndef test_more(): raise KeyboardInterrupt\n"
    pytester.makepyfile(test_inner=LIGHT + body)
    pytester.inline_run("--parity-report", "out", no_reraise_ctrlc=True)
    record = Record.from_dict(json.loads((pytester.path / "out" / "report.json").read_text()))
    assert [result.status for result in record.results] == ["PASS", "ERROR"]
    assert record.results[1].message == "it is not complete: the run was interrupted: tests are missing"


def test_a_report_that_cannot_be_written_fails_the_run_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_inner=LIGHT + "def test(parity): parity(double, twice, (X,))\n")
    pytester.makefile("", out="a file")
    for path in ("out", "out/below"):  # told before the work begins
        run = pytester.runpytest("--parity-report", path)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        run.stderr.fnmatch_lines([f"ERROR: --parity-report *{path}*"])
        assert "passed" not in run.stdout.str()
        assert "Traceback" not in run.stdout.str() + run.stderr.str()

    pytester.makepyfile(test_inner="def test(parity): open('late', 'w').close()\n")
    run = pytester.runpytest("--parity-report", "late")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stdout.fnmatch_lines(["error: *late*"])
    assert "Traceback" not in run.stdout.str() + run.stderr.str()


def test_the_folder_of_reports_may_have_any_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_inner=LIGHT + "def test(parity): parity(double, wrong, (X,))\n")
    pytester.runpytest("--parity-report", "reports-1.2")
    assert {file.name for file in (pytester.path / "reports-1.2").iterdir()} >= set(faces.FOLDER)


def test_a_face_that_was_left_out_is_told(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_inner=LIGHT + "def test(parity): parity(double, twice, (X,))\n")
    monkeypatch.setitem(sys.modules, "junitparser", None)
    monkeypatch.delitem(sys.modules, "isomorph.parity.report.junit", raising=False)
    monkeypatch.delattr("isomorph.parity.report.junit", raising=False)
    run = pytester.runpytest("--parity-report", "out")
    run.stdout.fnmatch_lines(["reports: *out", "junit.xml was left out: *pip install 'isomorph?report?'"])


def test_what_could_not_be_collected_is_in_the_record(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_inner=LIGHT + "def test(parity): parity(double, twice, (X,))\n")
    pytester.makepyfile(test_broken="import nothing_of_that_name")
    options = ("--continue-on-collection-errors", "--parity-report", "out")

    def record(*more: str) -> Record:
        pytester.runpytest(*options, *more)
        return Record.from_dict(json.loads((pytester.path / "out" / "report.json").read_text()))

    found = record()
    assert found.notes == ("could not be collected, tests may be missing: test_broken.py",)
    assert [(result.name, result.status) for result in found.results] == [
        ("test_inner.py::test", "PASS"),
        ("the whole run", "ERROR"),
    ]

    pytester.makefile(".toml", isomorph="no policy")
    pytester.makefile(".isomorph.toml", other='[[model]]\nname = "m"\nsource = "a:b"\nartifact = "a:b"\n')
    alone = record("isomorph.toml", "other.isomorph.toml", "test_inner.py")
    assert [(result.name, result.status) for result in alone.results] == [
        ("isomorph.toml", "ERROR"),
        ("other.isomorph.toml::m::check[cpu,both]", "NOT_FOUND"),
        ("test_inner.py::test", "PASS"),
    ]
    assert "no valid TOML" in alone.results[0].message


def test_nothing_is_gathered_where_nothing_is_checked(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test(): pass")
    monkeypatch.setattr(Collector, "__init__", None)
    pytester.runpytest().assert_outcomes(passed=1)
