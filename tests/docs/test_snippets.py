"""Every command and every snippet of the documentation is run, page by page, as it stands there."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isomorph.parity.cli import main
from scripts.package import ROOT

from .snippets import Block, Command, blocks, commands, missing

DOCS = ROOT / "docs"
PROJECT = Path(__file__).parent / "project"
PAGES = sorted(page for page in DOCS.rglob("*.md") if any(b.language in ("python", "console") for b in blocks(page)))
SHOWN = {"", "text", "json", "yaml", "markdown", "mermaid", "toml", "ini"}  # without a title only looked at


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A page's own folder, as the working directory; what is imported from it is forgotten afterwards."""
    shutil.copytree(PROJECT, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_what_a_page_shows_works(page: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.body)
        elif block.language == "python":
            exec(compile(block.body, where, "exec"), namespace)
        elif block.language == "console":
            for command in commands(block):
                code, output = run(command, folder, capfd)
                assert code == command.code, f"{where}: {command.text}\nexit code {code}\n{output}"
                absent = missing(command.expected, output)
                assert absent is None, f"{where}: {command.text}\ndid not print: {absent}\n{output}"
        else:
            assert block.language in SHOWN, f"{where}: a block of {block.language!r} is neither run nor shown"


def run(command: Command, folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, output). `isomorph` alone runs in this process, where the frameworks are loaded."""
    if command.words[0] == "isomorph" and not set(command.words) & {"|", ">", ">>", "&&", ";", "2>"}:
        capfd.readouterr()
        with contextlib.suppress(SystemExit):
            code = main(list(command.words[1:]))
            out, err = capfd.readouterr()
            return code, out + err
        out, err = capfd.readouterr()
        return 0, out + err
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(folder), *sys.path) if p)
    result = subprocess.run(
        ["bash", "-c", command.text], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    return result.returncode, result.stdout + result.stderr


def test_the_pages_are_found() -> None:
    assert {"getting_started.md", "pytest.md", "gate.md"} <= {page.name for page in PAGES}


def test_the_runner_reads_what_is_there(tmp_path: Path) -> None:
    """The test above can fail: files, commands, exit codes and lines that are not printed are told apart."""
    page = tmp_path / "page.md"
    page.write_text(
        '```toml title="x.toml"\na = 1\n```\n\n```console\n$ isomorph gate x \\\n    -q  # exit code 2\nerror: ... x\n'
        "$ echo 1.5 s\n0.3 s\n```\n"
    )
    first, second = blocks(page)
    assert first == Block("page.md", 1, "toml", "x.toml", "a = 1\n")
    gate, echo = commands(second)
    assert (gate.words, gate.code, gate.expected) == (("isomorph", "gate", "x", "-q"), 2, ("error: ... x",))
    assert missing(gate.expected, "isomorph: error: no such file x") is None
    assert missing(gate.expected, "isomorph: no such file x") == "error: ... x"
    assert missing(echo.expected, "12.1 s\n") is None
    assert missing(("b", "a"), "a\nb\n") == "a"
    buffer = io.StringIO()
    with contextlib.redirect_stdout(buffer):
        exec(compile("print(1)", "x", "exec"), {})
    assert buffer.getvalue() == "1\n"
