"""Every command and every snippet of the documentation is run, page by page, as it stands there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from isomorph.parity.cli import main, parser
from scripts.package import ROOT

from .snippets import PLACEHOLDER, Block, Command, blocks, commands, inline, looked_at, missing

DOCS = ROOT / "docs"
PROJECT = Path(__file__).parent / "project"
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in ALL if any(b.language in ("python", "console") for b in blocks(page))]
# Without a title only looked at. What reads those that have a form of their own:
SHOWN: dict[str, Callable[[str], object]] = {
    "": str, "text": str, "markdown": str, "ini": str,
    "json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads,
}  # fmt: skip


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A page's own folder, as the working directory; what is imported from it is forgotten afterwards."""
    shutil.copytree(PROJECT, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
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
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_shows_works(page: Path, folder: Path) -> None:
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
                code, output = run(command, folder)
                assert code == command.code, f"{where}: {command.text}\nexit code {code}\n{output}"
                absent = missing(command.expected, output)
                assert absent is None, f"{where}: {command.text}\ndid not print: {absent}\n{output}"
        else:
            assert block.language in SHOWN, f"{where}: a block of {block.language!r} is neither run nor shown"
            SHOWN[block.language](block.body)


def run(command: Command, folder: Path) -> tuple[int, str]:
    """(exit code, output, stderr in its place). `isomorph` alone runs in this process, where the frameworks are
    loaded."""
    if command.words[0] == "isomorph" and not set(command.words) & {"|", ">", ">>", "&&", ";", "2>"}:
        code = 0
        with merged() as output, contextlib.suppress(SystemExit):
            code = main(list(command.words[1:]))
        return code, output.getvalue()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(folder), *sys.path) if p)
    result = subprocess.run(
        ["bash", "-c", command.text], cwd=folder, env=env, text=True, check=False, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return result.returncode, result.stdout


@contextlib.contextmanager
def merged() -> Iterator[io.StringIO]:
    """What Python and native code write to stdout and stderr, in the order in which it is written."""
    output, kept = io.StringIO(), (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile("w+", buffering=1) as both:
        for target in (1, 2):
            os.dup2(both.fileno(), target)
        try:
            with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
                yield output
        finally:
            for target, saved in enumerate(kept, 1):
                os.dup2(saved, target)
                os.close(saved)
            both.seek(0)
            output.write(both.read())


def test_the_pages_are_found() -> None:
    expected = {"README.md", "getting_started.md", "converting.md", "checking.md", "pytest.md", "gate.md", "reports.md"}
    assert expected <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_a_command_that_is_not_run_is_a_synopsis(page: Path) -> None:
    run_somewhere = {c.text for p in PAGES for b in blocks(p) if b.language == "console" for c in commands(b)}
    unrun = [text for text in looked_at(page) if not PLACEHOLDER.search(text) and text not in run_somewhere]
    assert not unrun, f"examples that no test runs: {unrun}; put them into a ```console block"


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_what_the_text_names_exists(page: Path) -> None:
    """Of commands that are not run: the command and its options are there."""
    choices = next(action for action in parser()._actions if action.dest == "command").choices
    assert choices
    for text in (*looked_at(page), *inline(page)):
        words = text.split()[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in choices else words[0]
        if name not in choices:
            assert name in ("--version", "--help"), f"{page.name}: {text}: no such command"
            continue
        options = {option for action in choices[name]._actions for option in action.option_strings}
        unknown = [o for o in re.findall(r"(?<![\w.-])--?[a-z][a-z-]*", text) if o not in options]
        assert not unknown, f"{page.name}: {text}: no such option: {unknown}"


def test_the_project_is_shown_as_it_is() -> None:
    """A page that shows a file of the examples' project shows all of it, and the files that are used are shown."""
    shown = {b.title: b.body for page in PAGES for b in blocks(page) if (PROJECT / b.title).is_file()}
    assert shown == {name: (PROJECT / name).read_text() for name in ("package/net.py", "package/port.py")}


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


def test_what_is_printed_is_caught_in_order() -> None:
    with merged() as output:
        print("one")
        os.write(2, b"two\n")
        print("three", file=sys.stderr)
        os.system("echo four")
    assert output.getvalue() == "one\ntwo\nthree\nfour\n"


def test_an_example_that_is_not_run_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Run `isomorph gate --list`:\n\n    isomorph check a.keras b.onnx\n    $ isomorph gate\n    isomorph check A B"
        "\n\n```text\nisomorph ops x.pt2\n```\n\n```console\n$ isomorph doctor\n```\n"
    )
    shown = list(looked_at(page))
    assert shown == ["isomorph check a.keras b.onnx", "isomorph gate", "isomorph check A B", "isomorph ops x.pt2"]
    assert [text for text in shown if PLACEHOLDER.search(text)] == ["isomorph check A B"]
    assert list(inline(page)) == ["isomorph gate --list"]
