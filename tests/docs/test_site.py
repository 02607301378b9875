"""The documentation builds, its tables are those of the code, and the messages that it explains exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.package import ROOT, tree_modules

DOCS = ROOT / "docs"


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation, every link leads somewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "site" / "gate" / "index.html").is_file()


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for item in (entry.values() if isinstance(entry, dict) else entry) for page in pages(item)]  # type: ignore[union-attr,attr-defined]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.slow
def test_the_tables_are_those_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "support_tables.py"), "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-500:]


PATH = re.compile(r"`(?:python )?((?:scripts|parity|convert|tests|docs|fixtures|\.ci)/[\w./*-]+)")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")) + sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    """Of the repository's own files and folders, as the text names them in backquotes."""
    named = {path.rstrip("./") for path in PATH.findall(page.read_text())}
    assert sorted(path for path in named if not list(ROOT.glob(path))) == []


def test_the_architecture_names_every_file() -> None:
    """The tables of architecture.md have a row for each file or its folder, and for nothing else. A row's further names
    lie in the folder of its first."""
    named = set()
    for row in re.findall(r"^\| (`[^|]*`) \|", (DOCS / "architecture.md").read_text(), re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        named |= {
            first,
            *(name if name.startswith(("convert/", "parity/")) else f"{Path(first).parent}/{name}" for name in others),
        }
    found = {name: list(ROOT.glob(name.rstrip("/"))) for name in named}
    assert [name for name, files in found.items() if not files] == []
    covered = {path for paths in found.values() for path in paths}
    files = {file for folder in ("convert", "parity") for file in (ROOT / folder).rglob("*.py")}
    missing = [f for f in files if f.name not in ("__init__.py", "__main__.py") and not covered & {f, *f.parents}]
    assert sorted(str(file.relative_to(ROOT)) for file in missing) == []


def strings() -> list[str]:
    """Every string constant of the package."""
    found = []
    for file in tree_modules().values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_that_is_explained_exists() -> None:
    """A heading of troubleshooting.md in backquotes is a message of the code; "..." stands for what it fills in."""
    held = "\n".join(strings())
    headings = re.findall(r"^### (.*)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    assert len(messages) > 20
    fragments = {part.strip() for message in messages for part in message.split("...") if len(part.strip()) > 3}
    assert sorted(part for part in fragments if part not in held) == []
