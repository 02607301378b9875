"""Which file gets which face; nothing half-written; and back from report.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.record import Record, Result
from isomorph.parity.report import faces
from tests.report import nasty, records

MARKS = {"report.json": "{", "report.html": "<!", "report.md": "## ", "junit.xml": "<?xml", "report.sarif": "{"}
RECORDS = (records.passed, records.failed, records.gate, records.hostile, nasty.record, nasty.empty)


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_a_folder_gets_every_face(tmp_path: Path) -> None:
    written = faces.write(records.failed(), tmp_path / "a" / "reports")
    assert [path.name for path in written] == list(faces.FOLDER)
    assert written.notes == ()
    for path in written:
        assert path.read_text(encoding="utf-8").startswith(MARKS[path.name])
    assert sorted(path.name for path in (tmp_path / "a" / "reports").iterdir()) == sorted(faces.FOLDER)


@pytest.mark.parametrize("suffix", faces.SUFFIXES)
def test_a_file_gets_the_face_of_its_suffix(suffix: str, tmp_path: Path) -> None:
    (written,) = faces.write(records.passed(), tmp_path / f"r{suffix}")
    folder = faces.write(records.passed(), tmp_path / "all/")
    same = next(path for path in folder if path.suffix == suffix)
    assert written.read_text() == same.read_text()


@pytest.mark.parametrize("make", RECORDS)
def test_every_record_has_every_face_and_comes_back(make: Callable[[], Record], tmp_path: Path) -> None:
    written = faces.write(make(), tmp_path)
    first = {path: path.read_bytes() for path in written}
    assert len(first) == len(faces.FOLDER)
    faces.write(faces.read(tmp_path), tmp_path)
    for path, data in first.items():
        assert path.read_bytes() == data, path.name


def test_numbers_that_json_has_not_come_back_as_numbers(tmp_path: Path) -> None:
    faces.write(nasty.record(), tmp_path / "r.json")
    first = faces.read(tmp_path / "r.json").results[0]
    assert str([row.measured for row in first.budgets]) == "[nan, None]"
    assert not any(row.kept for row in first.budgets)


@pytest.mark.parametrize("name", ["new/", "new.d/", "new"])
def test_what_a_folder_is(name: str, tmp_path: Path) -> None:
    assert len(faces.write(records.passed(), f"{tmp_path}/{name}")) == len(faces.FOLDER)


def test_an_existing_folder_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "reports.html").mkdir()
    assert len(faces.write(records.passed(), tmp_path / "reports.html")) == len(faces.FOLDER)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r.pdf", r"must end in \.json, \.html, \.md, \.xml or \.sarif, or be that of a folder"),
        ("no/r.json", "there is no directory"),
        ("file", "must end in"),
        ("file/reports", "there is no directory"),
    ],
)
def test_a_path_that_is_none_of_them(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=says):
        faces.write(records.passed(), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_path_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--report "$UNSET"`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="the path is empty"):
        faces.write(records.passed(), "")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_report_stays_when_a_face_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.write(records.passed(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as spoiled:
        spoiled.setattr("isomorph.parity.report.sarif.draw", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            faces.write(records.failed(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    real = Path.write_text

    def full(path: Path, text: str, **more: str) -> int:
        if path.suffix == ".sarif":
            raise OSError(28, "No space left on device")
        return real(path, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        faces.write(records.failed(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# ------------------------------------------------------------------------------------------------------------ extras
def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if the packages were not installed."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "isomorph.parity.report.junit", raising=False)
    monkeypatch.delattr("isomorph.parity.report.junit", raising=False)
    real = faces.find_spec
    monkeypatch.setattr(faces, "find_spec", lambda name: None if name in names else real(name))


@pytest.mark.parametrize(("name", "package"), [("r.html", "jinja2"), ("r.xml", "junitparser")])
def test_a_file_without_its_library_is_one_line(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, package)
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'isomorph\[report\]'"):
        faces.check_path(tmp_path / name)
    with pytest.raises(UsageError, match="pip install"):
        faces.write(records.passed(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_library_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.write(records.passed(), tmp_path)
    without(monkeypatch, "junitparser", "jinja2")
    written = faces.write(records.failed(), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.md", "report.sarif"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md", "report.sarif"]
    assert [note.split()[0] for note in written.notes] == ["report.html", "junit.xml"]
    assert all("pip install 'isomorph[report]'; that of an earlier run was removed" in note for note in written.notes)


# ----------------------------------------------------------------------------------------------------------- summary
def test_the_step_summary_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "step_summary_1"
    file.write_text("# said before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert faces.write(records.passed(), str(file)) == (file,)
    faces.write(records.failed(), file)
    text = file.read_text()
    assert text.startswith("# said before\n")
    assert text.index("PASS: isomorph check") < text.index("FAIL: isomorph gate")


def test_what_is_in_the_summary_counts_against_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary"
    file.write_text("x" * 1_040_000)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    faces.write(records.gate(), file)
    assert file.stat().st_size <= 1_048_576
    assert "left out" in file.read_text()


# --------------------------------------------------------------------------------------------------------- artifacts
def test_files_of_a_result_are_found_from_the_report(tmp_path: Path) -> None:
    record = records.failed()
    result = replace(record.results[0], artifacts={"reproducer": str(tmp_path / "bug"), "kept": "near/by"})
    (tmp_path / "out").mkdir()
    faces.write(replace(record, results=(result,)), tmp_path / "out" / "r.json")
    said = json.loads((tmp_path / "out" / "r.json").read_text())["results"][0]["artifacts"]
    assert said == {"reproducer": "../bug", "kept": "near/by"}
    read = faces.read(tmp_path / "out" / "r.json").results[0].artifacts
    assert read == {"reproducer": str(tmp_path / "bug"), "kept": str(tmp_path / "out" / "near" / "by")}
    faces.write(faces.read(tmp_path / "out" / "r.json"), tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["results"][0]["artifacts"]["reproducer"] == "bug"


# -------------------------------------------------------------------------------------------------------------- read
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON document"),
        ("[" * 100_000, "is no JSON document"),
        ("[]", "no object with a list of results"),
        ('{"schema": "isomorph.report/1", "results": {}}', "no object with a list of results"),
        ('{"schema": "isomorph.verdict/1", "status": "PASS"}', "is no report of isomorph"),
        ('{"schema": "isomorph.report/1"}', "is no report of isomorph"),
        ('{"schema": "isomorph.report/1", "results": [{"name": "a"}]}', "is no report of isomorph"),
        ('{"schema": "isomorph.report/1", "results": [{"name": "a", "status": "GOOD"}]}', "unknown status 'GOOD'"),
        (
            '{"schema": "isomorph.report/1", "results": [{"name": "a", "status": "PASS", "verdict": {"status": 1}}]}',
            "is no report of isomorph",
        ),
        (
            '{"schema": "isomorph.report/1", "results": [{"name": "a", "status": "PASS", "budgets": '
            '[{"name": "size", "limit": "much", "measured": 1, "unit": "x"}]}]}',
            "the limit is no number",
        ),
    ],
)
def test_what_is_no_record(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        faces.read(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_no_name_looks_like_another_one(tmp_path: Path) -> None:
    """Signs that turn the direction of writing, or break a line, are shown as what they are; emoji stay."""
    record = Record((Result("net\u202etxt.\u2066a\u2028b \U0001f600\u200d\U0001f525", "FAIL", "\u202emessage"),))
    for file in ("r.html", "r.md", "r.xml", "r.sarif"):
        faces.write(record, tmp_path / file)
        text = (tmp_path / file).read_text("utf-8")
        assert not set("\u202e\u2066\u2028") & set(text), file
        assert "\U0001f600\u200d\U0001f525" in text or "\\ud83d" in text, file


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report\.json cannot be read: No such file"):
        faces.read(tmp_path)


def test_drawing_loads_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.report import records; from isomorph.parity.report import faces\n"
        f"faces.write(records.failed(), {str(tmp_path / 'all')!r})\n"
        "print([name for name in ('torch', 'tensorflow', 'keras', 'jax', 'numpy') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(root)])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr
