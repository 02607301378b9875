"""isomorph gate from end to end: what is run, printed and written, exit codes, and what wrong input gets.

But for the last test, tasks do what `tests.gate.fake_tasks` says, so that no framework is needed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isomorph.parity.gate import run as gate_run
from isomorph.parity.record import Record
from tests.gate.fake_gate import MODEL, NET, PERFORM, write

from .conftest import Run

Command = Callable[..., Run]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(gate_run, "How", functools.partial(gate_run.How, perform=PERFORM))


def test_every_model_is_judged_and_the_code_is_that_of_the_gravest(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "overspent", "nothing-c")
    run = isomorph("gate", "--json", "record.json")
    assert run.code == 5, run.err
    assert run.out.startswith("NOTHING_COMPARED")
    assert "pass-a::check[cpu,both]" in run.out
    assert run.err.splitlines()[0].startswith("[1/3] PASS pass-a::check[cpu,both] ")
    record = Record.from_dict(json.loads((tmp_path / "record.json").read_text()))
    assert [result.status for result in record.results] == ["PASS", "BUDGET", "NOTHING_COMPARED"]
    assert record.command == "isomorph gate isomorph.toml"
    assert record.exit_code == 5
    assert isomorph("gate", "--only", "overspent", "-q").code == 7
    assert isomorph("gate", "--only", "pass-a", "-q").code == 0


@pytest.mark.parametrize("jobs", ["1", "2", "auto"])
def test_quiet_is_one_line(isomorph: Command, tmp_path: Path, jobs: str) -> None:
    write(tmp_path, "pass-a", "fail-b", "fail-c")
    run = isomorph("gate", "-q", "-j", jobs)
    assert (run.code, run.out, run.err) == (1, "FAIL  isomorph gate isomorph.toml: 1 PASS, 2 FAIL\n", "")


def test_json_on_stdout_is_one_document(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "fail-b")
    run = isomorph("gate", "--json", "-", "--engine", "inline", "--only", "pass-*")
    assert run.code == 0
    record = Record.from_dict(run.document)
    assert record.command == "isomorph gate isomorph.toml --only 'pass-*'"
    assert record.notes[0].startswith("a part of the gate: 1 of 2 tasks")
    assert (record.policy or {})["partial"] is True


def test_results_are_kept_and_taken(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "fail-b")

    def cached(*options: str) -> list[bool]:
        return [result["cached"] for result in isomorph("gate", "--json", "-", *options).document["results"]]

    assert cached() == [False, False]
    assert (tmp_path / "home" / "isomorph" / "gate" / "results").is_dir()
    assert cached() == [True, True]
    assert cached("--fresh") == [False, False]
    assert cached("--no-cache") == [False, False]
    assert cached("--cache", "other") == [False, False]
    assert cached("--cache", "other", "--engine", "inline") == [True, True]
    assert "[1/2] PASS pass-a::check[cpu,both] cached" in isomorph("gate").err


def test_fail_fast(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "fail-a", "pass-b")
    run = isomorph("gate", "--fail-fast")
    assert run.code == 1
    assert "1 of 2 tasks were not done" in run.out


def test_everything_that_can_be_written(isomorph: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write(tmp_path, "pass-a", "file-b")
    run = isomorph("gate", "--report", "reports", "--report", "one.md", "--json", "record.json", "--verdict", "v.json",
                   "--blessing", "blessing", "--tensorboard", "events")  # fmt: skip
    assert run.code == 1, run.err
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {
        "report.json", "report.html", "report.md", "junit.xml", "report.sarif", "artifacts",
    }  # fmt: skip
    there = json.loads((tmp_path / "reports" / "report.json").read_text())["results"][1]["artifacts"]["reproducer"]
    assert there == "artifacts/file-b-check-cpu-both/reproducer"
    assert (tmp_path / "reports" / there).read_text() == "here"
    said = json.loads((tmp_path / "v.json").read_text())
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicate"]["status"] == "FAIL"
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["NOT_BLESSED"]
    assert any(path.is_file() for path in (tmp_path / "events").rglob("*"))
    assert "# " in (tmp_path / "one.md").read_text()
    written = [line for line in run.out.splitlines() if line.startswith("wrote ")]
    assert written == ["wrote reports", "wrote one.md", "wrote events", "wrote v.json", "wrote blessing/NOT_BLESSED"]
    assert str(tmp_path / "reports" / there) in run.out


def test_a_part_of_a_gate_blesses_nothing(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "pass-b")
    for options, status, blessing in ((("--only", "pass-a"), "INCOMPLETE", "NOT_BLESSED"), ((), "PASS", "BLESSED")):
        run = isomorph("gate", "-q", "--verdict", "v.json", "--blessing", "blessing", *options)
        assert run.code == 0
        said = json.loads((tmp_path / "v.json").read_text())["predicate"]
        assert [path.name for path in (tmp_path / "blessing").iterdir()] == [blessing]
        assert said["complete"] == (not options)
        # The tasks of this test name no models that were hashed, so that there is nothing to pass.
        assert said["status"] in (status, "INCOMPLETE")


def test_no_blessing_outlives_a_gate_that_cannot_be_read(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a")
    (tmp_path / "blessing").mkdir()
    for name in ("isomorph.toml", "wrong.toml"):
        (tmp_path / "blessing" / "BLESSED").touch()
        assert isomorph("gate", name, "--list", "--blessing", "blessing").code in (0, 2)
        assert (tmp_path / "blessing" / "BLESSED").exists(), "nothing is judged"
    assert isomorph("gate", "wrong.toml", "--blessing", "blessing").code == 2
    assert not list((tmp_path / "blessing").iterdir())


def test_the_list_of_tasks(isomorph: Command, tmp_path: Path) -> None:
    write(tmp_path, "pass-a", "fail-b", more='dtypes = ["own", "float64"]\n[model.budgets]\nsize = "1 MB"\n')
    names = ["pass-a::check[cpu,both]", "fail-b::check[cpu,own]", "fail-b::check[cpu,float64]", "fail-b::budget[size]"]
    assert isomorph("gate", "--list").out.splitlines() == names
    assert isomorph("gate", "--list", "--only", "fail-b").out.splitlines() == names[1:]
    document = isomorph("gate", "--list", "--json", "-").document
    assert document["schema"] == "isomorph.tasks/1"
    assert [task["name"] for task in document["tasks"]] == names
    last = document["tasks"][-1]
    assert (last["model"], last["kind"], last["limit"]) == ("fail-b", "size", 1e6)
    assert (last["source"], last["converted"], last["file"], last["line"]) == (
        "net.py:Net", "fail-b.keras", "isomorph.toml", 11,
    )  # fmt: skip
    assert not (tmp_path / "home").exists()


def test_where_the_gate_file_is_found(isomorph: Command, tmp_path: Path) -> None:
    assert "no isomorph.toml and no pyproject.toml" in isomorph("gate", "--list").error
    section = "\n".join(MODEL.format(name="pass-p").splitlines()).replace("[[model]]", "[[tool.isomorph.model]]")
    (tmp_path / "pyproject.toml").write_text(section)
    assert isomorph("gate", "--list").out == "pass-p::check[cpu,both]\n"
    write(tmp_path, "pass-a")
    assert isomorph("gate", "--list").out == "pass-a::check[cpu,both]\n"
    assert isomorph("gate", "pyproject.toml", "--list").out == "pass-p::check[cpu,both]\n"
    (tmp_path / "below").mkdir()
    os.chdir(tmp_path / "below")
    assert isomorph("gate", "--list").code == 2  # not upwards: a gate of another folder is named
    assert isomorph("gate", "..", "--list").out == "pass-a::check[cpu,both]\n"
    os.chdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nowhere.toml",), "nowhere.toml: no such file"),
        (("--only", "x*"), "--only x*: no model of that name; there are pass-a"),
        (("--only", "pass-b"), "--only pass-b: no model of that name; did you mean pass-a?"),
        (("-j", "0"), "argument -j/--jobs: '0' is not a whole number from 1 to 1024, nor auto"),
        (("--engine", "threads"), "argument --engine: invalid choice: 'threads'"),
        (("--ray-address", "auto"), "--ray-address auto: means something with --engine ray only"),
        (("--no-cache", "--fresh"), "--no-cache with --fresh: give one of them"),
        (("--no-cache", "--cache", "x"), "--no-cache with --cache: give one of them"),
        (("--cache", "isomorph.toml"), "--cache isomorph.toml is no folder"),
        (("--report", "report.pdf"), "--report report.pdf: the name must end in"),
        (("--report", "no/such/report.json"), "--report no/such/report.json: there is no directory no/such"),
        (("--verdict", "no/v.json"), "--verdict no/v.json: there is no directory no"),
        (("--verdict", "x.json", "--json", "x.json"), "--json x.json: that is where --verdict is written"),
        (("--json", "isomorph.toml"), "--json isomorph.toml: that is the gate file or a model of it"),
        (("--verdict", "pass-a.keras"), "--verdict pass-a.keras: that is the gate file or a model of it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_runs(
    isomorph: Command, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    file = write(tmp_path, "pass-a")
    text = file.read_text()
    run = isomorph("gate", *options)
    assert run.code == 2
    assert run.error.startswith(message)
    assert file.read_text() == text
    assert (tmp_path / "pass-a.keras").read_bytes() == b"pass-a"


def test_an_error_is_also_said_in_json(isomorph: Command, tmp_path: Path) -> None:
    file = write(tmp_path, "pass-a", more="speed = 3\n")
    run = isomorph("gate", "--json", "record.json")
    assert run.code == 2
    assert run.error.startswith("isomorph.toml:10: model 'pass-a': unknown key 'speed'")
    said = json.loads((tmp_path / "record.json").read_text())
    assert (said["status"], said["exit_code"]) == ("USAGE", 2)
    assert isomorph("gate", "--json", "-").document["error"]["message"] == said["error"]["message"]
    file.unlink()


def test_help_of_both_commands(isomorph: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((("gate",), "--fail-fast"), (("gate", "verify"), "--policy")):
        with pytest.raises(SystemExit) as stop:
            isomorph(*arguments, "--help")
        assert stop.value.code == 0
        assert words in capsys.readouterr().out


HEAVY = ("torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "numpy", "ray", "rich", "jinja2", "hypothesis")


@pytest.mark.parametrize(
    "arguments", [("gate", "--help"), ("gate", "--list"), ("gate", "verify", "v.json", "pass-a.keras")]
)
def test_what_needs_no_framework_loads_none(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write(tmp_path, "pass-a")
    code = (
        "import sys, contextlib\nfrom isomorph.parity.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({list(arguments)!r})\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1].strip() == "loaded:"


POLICY = """
[gate]
version = 2
[defaults]
level = "quick"
inputs = ["x=float32[b,3]"]
[[model]]
name = "good"
source = "net.py:Net"
convert = { to = "keras" }
[[model]]
name = "wrong"
source = "net.py:Wrong"
artifact = "net.py:Net"
"""


def test_real_models_in_processes_of_their_own(
    isomorph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "isomorph.toml").write_text(POLICY)
    run = isomorph("gate", "--json", "-", "--cache", "cache", "-j", "2", "--verdict", "v.json", "--report", "reports")
    assert run.code == 1, run.err
    good, wrong = Record.from_dict(run.document).results
    assert (good.status, wrong.status) == ("PASS", "FAIL")
    assert (good.verdict or {})["coverage"]["parameters"]["compared"] == ["linear.weight", "linear.bias"]
    assert (wrong.verdict or {})["counterexample"]["inputs"]["x"]["shape"] == [1, 3]
    assert (Path(wrong.artifacts["reproducer"]) / "test_reproduce.py").is_file()
    assert (tmp_path / "reports/artifacts/wrong-check-cpu-both/reproducer/test_reproduce.py").is_file()
    assert json.loads((tmp_path / "v.json").read_text())["predicate"]["status"] == "FAIL"
    since = time.monotonic()
    again = isomorph("gate", "--json", "-", "--cache", "cache")
    assert [(result["status"], result["cached"]) for result in again.document["results"]] == [
        ("PASS", True), ("FAIL", True),
    ]  # fmt: skip
    assert time.monotonic() - since < 10
