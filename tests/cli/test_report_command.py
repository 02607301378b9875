"""isomorph report RECORD, and isomorph check --report, --tensorboard: what is written, printed and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from isomorph.parity.record import EXIT_CODES, Record, Result
from isomorph.parity.report import faces
from isomorph.parity.report.terminal import record_page
from tests.report import nasty, records

from .conftest import Run

Command = Callable[..., Run]

MODELS = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

class Wrong(Net):
    def forward(self, x):
        return super().forward(x) * 1.01

def breaks():
    raise RuntimeError("no such weights")
"""
X = ("--input", "x=float32[b,3]", "--level", "quick", "--seed", "3")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delitem(sys.modules, "report_models", raising=False)


def only(path: str) -> Result:
    (result,) = faces.read(path).results
    return result


# ------------------------------------------------------------------------------------------------------ check --report
def test_a_failing_check_has_a_report(isomorph: Command) -> None:
    run = isomorph("check", "report_models:Net", "report_models:Wrong", *X, "--report", "r.json", "--report", "all/",
                   "--tensorboard", "tb", "--reproduce", "bug", "-q")  # fmt: skip
    assert (run.code, run.err) == (1, "")
    assert run.out.startswith("FAIL: compared")
    assert sorted(path.name for path in Path("all").iterdir()) == sorted(faces.FOLDER)
    record, result = faces.read("r.json"), only("r.json")
    assert (record.status, record.exit_code, result.name) == ("FAIL", 1, "report_models:Net = report_models:Wrong")
    assert record.command.startswith("isomorph check report_models:Net report_models:Wrong --input 'x=float32[b,3]'")
    assert result.verdict is not None
    assert result.verdict["modules"], "asked for by --report"
    assert result.message == str(result.message).strip() != ""
    assert [subject.kind for subject in result.subjects] == ["code", "code"]
    assert all(len(subject.sha256) == 64 for subject in result.subjects)
    assert result.place is not None
    assert (result.place.file, result.place.line) == (
        "report_models.py",
        MODELS.splitlines().index("class Net(nn.Module):") + 1,
    )
    assert result.artifacts == {"reproducer": str(Path("bug").resolve())}
    assert run.out.count("\n") == 1, "--quiet: one line"
    assert json.loads(Path("all/report.json").read_text())["results"][0]["artifacts"] == {"reproducer": "../bug"}
    assert result.settings["level"] == "quick"
    assert result.settings["seed"] == 3
    (alert, *_) = json.loads(Path("all/report.sarif").read_text())["runs"][0]["results"]
    assert alert["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "report_models.py"
    assert sorted(path.parent.name for path in Path("tb").rglob("events*")) == ["allowed", "error", "original"]


def test_with_json_stdout_is_one_document(isomorph: Command) -> None:
    options = (*X, "--no-backward", "--mode", "eval", "--report", "r.md")
    run = isomorph("check", "report_models:Net", "report_models:Net", *options, "--json", "-")
    assert (run.code, run.document["status"], run.err) == (0, "PASS", "")
    assert Path("r.md").read_text().startswith("## ✅ PASS")
    assert isomorph("check", "report_models:Net", "report_models:Net", *options).out.endswith("\nwrote r.md\n")


def test_the_hash_is_that_of_the_file(isomorph: Command) -> None:
    import hashlib

    import torch

    torch.manual_seed(0)
    exported = torch.export.export(torch.nn.Linear(3, 2).eval(), (torch.zeros(2, 3),))
    torch.export.save(exported, "a.pt2")
    run = isomorph("check", "a.pt2", "a.pt2", "--level", "quick", "--mode", "eval", "--report", "r.json", "-q")
    assert run.code == 0, run.err
    result = only("r.json")
    wanted = hashlib.sha256(Path("a.pt2").read_bytes()).hexdigest()
    assert [(s.role, s.kind, s.sha256, s.size) for s in result.subjects] == [
        (role, "file", wanted, Path("a.pt2").stat().st_size) for role in ("original", "converted")
    ]
    assert result.place is not None
    assert result.place.file == "a.pt2"


@pytest.mark.parametrize(
    ("models", "options", "code", "says"),
    [
        (("report_models:Net", "report_models:No"), X, 2, "has no 'No'"),
        (("report_models:breaks", "report_models:Net"), X, 2, "no such weights"),
        (("report_models:Net", "report_models:Net"), ("--tolerance", "int8"), 2, "the form is KIND=VALUE"),
    ],
)
def test_a_check_without_a_verdict_has_a_report_too(
    models: tuple[str, str], options: tuple[str, ...], code: int, says: str, isomorph: Command
) -> None:
    run = isomorph("check", *models, *options, "--report", "r.json", "--report", "r.xml")
    assert run.code == code
    result = only("r.json")
    assert (result.status, result.verdict) == ("ERROR", None)
    assert result.message == run.error
    assert says in result.message
    assert 'errors="1"' in Path("r.xml").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--report", "r.pdf"), "must end in"),
        (("--report", ""), "the path is empty"),
        (("--report", "no/r.json"), "there is no directory"),
        (("--tensorboard", "report_models.py"), "is no folder"),
    ],
)
def test_a_report_that_cannot_be_is_told_before_the_work(
    options: tuple[str, str], says: str, isomorph: Command
) -> None:
    run = isomorph("check", "nothing:here", "nothing:there", *X, *options)
    assert run.code == 2
    assert says in run.error
    assert "nothing" not in run.error


def test_interrupted(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("isomorph.parity.check.examine", interrupt)
    assert isomorph("check", "report_models:Net", "report_models:Net", *X, "--report", "r.json").code == 130
    assert only("r.json").message.startswith("interrupted")
    assert only("r.json").status == "ERROR"


# -------------------------------------------------------------------------------------------------------------- report
def test_faces_are_drawn_later(isomorph: Command) -> None:
    faces.write(records.gate(), "first")
    run = isomorph("report", "first", "-o", "r.md", "--output", "second/", "--tensorboard", "tb")
    assert run.code == 0, run.err
    assert run.out.splitlines()[:2] == ["wrote r.md", f"wrote {Path('second/report.json')}"]
    assert Path("r.md").read_text() == Path("first/report.md").read_text() == Path("second/report.md").read_text()
    assert any(Path("tb").rglob("events*"))


def test_a_record_is_printed(isomorph: Command) -> None:
    faces.write(records.gate(), "r.json")
    run = isomorph("report", "r.json")
    assert run.code == 0, "nothing is judged"
    for result in records.gate().results:
        assert (
            sum(line.split()[0] == result.status and result.name in line for line in run.out.splitlines() if line) >= 1
        )
    assert "ERROR  isomorph gate: 11 results" in run.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no.json",), "cannot be read"),
        (("report_models.py",), "is no JSON document"),
        (("r.json", "-o", "r.pdf"), "--output r.pdf: the name must end in"),
        (("r.json", "-o", ""), "--output: the path is empty"),
        (("r.json", "-o", "ok.md", "-o", "no/r.md"), "there is no directory"),
    ],
)
def test_report_refuses(arguments: tuple[str, ...], says: str, isomorph: Command) -> None:
    faces.write(records.passed(), "r.json")
    run = isomorph("report", *arguments)
    assert run.code == 2
    assert says in run.error
    assert not Path("ok.md").exists(), "nothing is written when something cannot be"


def test_what_a_folder_leaves_out_is_said(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.write(records.passed(), "r.json")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    run = isomorph("report", "r.json", "-o", "all")
    assert run.code == 0
    assert run.err.startswith("isomorph: report.html was left out: ")
    assert "pip install 'isomorph[report]'" in run.err
    assert "report.html" not in run.out


def test_the_command_loads_no_framework() -> None:
    faces.write(records.failed(), "r.json")
    code = (
        "import sys; from isomorph.parity.cli import main; main(['report', 'r.json', '-o', 'all'])\n"
        "print([name for name in ('torch', 'tensorflow', 'keras', 'jax', 'numpy', 'networkx') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ})
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr


# ------------------------------------------------------------------------------------------------------------ terminal
def page(record: Record) -> str:
    file = StringIO()
    RichConsole(file=file, width=200, highlight=False, force_terminal=True, color_system=None).print(
        record_page(record)
    )
    return file.getvalue()


def test_a_run_shows_each_result_then_what_did_not_pass() -> None:
    text = page(records.gate())
    assert text.count("digits::check[cpu,both]") == 1, "what passed has one line"
    assert text.count("resnet::check[cpu,both]") >= 2
    assert "budget latency_ratio: 1.93x of 1.5x allowed, not kept" in text
    assert "waived in resnet::check[cpu,float64]: gelu-tanh: value/parameter gradient/stem.weight" in text
    assert "5.5 s (cached)" in text
    assert "parts forward at blocks.0.mlp.act (GELU)" in text
    assert "2 results were taken from the cache" in text


def test_one_result_is_shown_in_full_also_when_it_passed() -> None:
    text = page(records.passed())
    assert "not checked: gradients of the .onnx artifact" in text
    assert "structure   output" in text


def test_a_long_run_is_cut_and_says_so() -> None:
    text = page(Record(tuple(Result(f"m{i}", "FAIL", "because") for i in range(30))))
    assert "... and 20 more that did not pass" in text
    assert "30 results: 30 FAIL" in text


def test_no_name_reaches_the_terminal_raw() -> None:
    text = page(nasty.record())
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "[red]" in text, "no markup of rich"
    text.encode()


@pytest.mark.parametrize("status", EXIT_CODES)
def test_each_status_has_a_page(status: str) -> None:
    assert status in page(Record((Result("a", status), Result("b", "PASS"))))  # type: ignore[arg-type]
    assert "nothing was proven" in page(Record(()))
