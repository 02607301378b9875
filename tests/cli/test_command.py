"""The command before any conversion: arguments, files that do not fit, one line for each error, and silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isomorph.parity.cli import main, parser
from isomorph.parity.console import Console, console, json_text

from .conftest import Run

Command = Callable[..., Run]

SPEC = ("--input", "input=float32[b,3]")
CONVERT = ("convert", "torch.nn:ReLU")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BAD_ARGUMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), "no command given"),
    "unknown command": (("convrt",), "invalid choice: 'convrt'"),
    "no source": (("convert", "-o", "m.keras"), "required: SOURCE"),
    "no output": (CONVERT, "required: -o/--output"),
    "unknown option": (
        (*CONVERT, "-o", "m.keras", "--verfy", "none"),
        "unrecognized argument: --verfy; did you mean --verify?",
    ),
    "abbreviated option": ((*CONVERT, "-o", "m.keras", "--verif", "none"), "unrecognized argument: --verif"),
    "wrong dtype": ((*CONVERT, "-o", "m.keras", "--dtype", "float31"), "--dtype: invalid choice: 'float31'"),
    "wrong layout": ((*CONVERT, "-o", "m.keras", "--layout", "nhwc"), "--layout: invalid choice: 'nhwc'"),
    "wrong target": ((*CONVERT, "-o", "m.keras", "--to", "jax"), "--to: invalid choice: 'jax'"),
    "wrong seed": ((*CONVERT, "-o", "m.keras", "--seed", "-1"), "--seed: '-1' is not a whole number"),
    "suffix": ((*CONVERT, *SPEC, "-o", "model.h5"), "the name must end in .keras"),
    "no suffix": ((*CONVERT, *SPEC, "-o", "model"), "the name must end in .keras"),
    "no directory": ((*CONVERT, *SPEC, "-o", "no/such/model.keras"), "there is no directory no/such"),
    "report directory": ((*CONVERT, *SPEC, "-o", "m.keras", "--report", "no/r.json"), "there is no directory no"),
    "report is the model": ((*CONVERT, *SPEC, "-o", "m.keras", "--report", "./m.keras"), "that is the model's file"),
    "input": ((*CONVERT, "--input", "x", "-o", "m.keras"), "--input 'x': not of the form"),
    "unknown argument": ((*CONVERT, "--input", "x=float32[b]", "-o", "m.keras"), "has no argument 'x'; it has: input"),
    "no inputs": ((*CONVERT, "-o", "m.keras"), "no example inputs; give --input"),
    "source": (("convert", "nothing", "-o", "m.keras"), "is not understood; give model.pt2"),
    "no module": (("convert", "no.module:f", "-o", "m.keras"), "no module named 'no.module'"),
    "weights": ((*CONVERT, *SPEC, "-o", "m.keras", "--weights", "w.pt"), "weights: w.pt: no such file"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case: str, isomorph: Command) -> None:
    arguments, says = BAD_ARGUMENTS[case]
    run = isomorph(*arguments)
    assert run.code == 2
    assert says in run.error
    assert run.out == ""
    assert list(Path().iterdir()) == [], "nothing is left behind"


def test_errors_as_json(isomorph: Command) -> None:
    for arguments in ((*CONVERT, "-o", "model.h5", "--json"), ("convert", "--json"), ("ops", "nothing", "--json")):
        run = isomorph(*arguments)
        assert (run.code, run.document["exit_code"], run.document["status"]) == (2, 2, "USAGE")
        assert run.document["error"]["message"] == run.error


def test_an_error_is_in_the_report_too(isomorph: Command) -> None:
    run = isomorph(*CONVERT, "--input", "x=float32[b]", "-o", "m.keras", "--report", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert (run.code, report["exit_code"], report["status"]) == (2, 2, "USAGE")
    assert report["error"]["message"] == run.error
    assert report["options"]["verify"] == "full"
    assert os.stat("r.json").st_mode & 0o077 == 0o066 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_existing_file_is_kept_when_it_fails(isomorph: Command) -> None:
    Path("m.keras").write_text("precious")
    assert isomorph(*CONVERT, "-o", "m.keras").code == 2
    assert Path("m.keras").read_text() == "precious"


def test_the_output_is_a_directory(isomorph: Command) -> None:
    Path("m.keras").mkdir()
    assert "m.keras is a directory" in isomorph(*CONVERT, *SPEC, "-o", "m.keras").error


def test_a_directory_that_takes_no_file(isomorph: Command, tmp_path: Path) -> None:
    closed = Path("/proc") if os.geteuid() == 0 and Path("/proc/self").exists() else tmp_path / "closed"
    closed.mkdir(exist_ok=True)
    if closed.parent == tmp_path:
        closed.chmod(0o500)
    run = isomorph(*CONVERT, *SPEC, "-o", closed / "m.keras")
    assert run.code == 2
    assert "m.keras cannot be written" in run.error


def test_unexpected_exceptions_are_one_line(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deep\ninside")

    monkeypatch.setattr("isomorph.convert.sources.load_source", broken)
    run = isomorph(*CONVERT, *SPEC, "-o", "m.keras", "--json")
    assert run.code == 4
    assert "internal: ZeroDivisionError: deep (" in run.error
    assert "set ISOMORPH_TRACEBACK=1" in run.error
    assert run.document["status"] == "ERROR"
    monkeypatch.setenv("ISOMORPH_TRACEBACK", "1")
    code = main([*CONVERT, *SPEC, "-o", "m.keras"])
    assert code == 4


def test_the_traceback_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOMORPH_TRACEBACK", "1")
    assert main(["convert", "no.module:f", "-o", "m.keras"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(isomorph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("isomorph.convert.sources.load_source", interrupt)
    run = isomorph(*CONVERT, *SPEC, "-o", "m.keras")
    assert run.code == 130
    assert run.error == "interrupted; nothing was written"


def test_version(isomorph: Command) -> None:
    import isomorph as package

    assert isomorph("--version").out == f"isomorph {package.__version__}\n"


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    choices = next(a for a in parser()._actions if a.dest == "command").choices
    for name, command in choices.items():
        assert f"isomorph {name}" in page
        for action in command._actions:
            assert all(option in page for option in action.option_strings if option not in ("-h", "--help")), (
                action.dest
            )


def test_json_is_strict() -> None:
    text = json_text({"a": float("nan"), "b": [float("inf"), 1.5], "c": {1: (2, Path("x"))}, "d": torch.float32})
    assert json.loads(text) == {"a": "nan", "b": ["inf", 1.5], "c": {"1": [2, "x"]}, "d": "torch.float32"}


NOISE = """
import os, sys, warnings, logging
from isomorph.parity.console import console
with console() as streams:
    print("python out"); print("python err", file=sys.stderr)
    os.write(1, b"native out\\n"); os.write(2, b"native err\\n")
    os.system("echo child; echo child >&2")
    warnings.warn("warned"); logging.warning("logged")
    streams.line("result"); streams.message("message")
print("after"); print("after", file=sys.stderr)
"""


def test_only_the_command_speaks() -> None:
    run = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, check=True)
    assert run.stdout == "result\nafter\n"
    assert run.stderr == "message\nafter\n"
    loud = {**os.environ, "ISOMORPH_TRACEBACK": "1"}
    run = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, check=True, env=loud)
    assert "native out" in run.stdout
    assert "warned" in run.stderr


def test_streams_are_put_back_after_an_error() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(ValueError, match="inside"), console():
        raise ValueError("inside")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.slow
def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m isomorph ops | head -n 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.returncode == 0
    assert run.stdout.count("\n") == 1


def test_console_needs_no_terminal() -> None:
    assert Console(sys.stdout, sys.stderr).err.isatty() is False


def test_the_module_gives_its_exit_code() -> None:
    run = subprocess.run([sys.executable, "-m", "isomorph", "convert"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("isomorph: error: ")


PROGRESS = """
import io, sys
from isomorph.parity.progress import STAGES, Stages
with Stages(sys.stderr, show={show}) as stage:
    for name in STAGES:
        stage(name)
        stage._bar and stage._bar.refresh()
print(sorted(stage.seconds) == sorted(STAGES))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("show", "seen"), [(True, True), (False, False)])
def test_the_bar_on_a_terminal(show: bool, seen: bool) -> None:
    import pty

    reader, terminal = pty.openpty()
    code = PROGRESS.format(show=show)
    environment = {**os.environ, "TERM": "xterm"}
    run = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, check=True, env=environment
    )
    os.close(terminal)
    drawn = b""
    try:
        while part := os.read(reader, 4096):
            drawn += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(reader)
    assert run.stdout == b"True\n"
    for stage in (b"capture", b"verify"):
        assert (stage in drawn) is seen


def test_no_bar_in_a_file() -> None:
    code = PROGRESS.format(show=True)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("True\n", "")
