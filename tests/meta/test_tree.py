"""What may stand in the repository: sizes, paths, environment variables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from scripts.package import ROOT

MAX_BYTES = 1_000_000
MAX_LINES = 500
SOURCE_SUFFIXES = {".py", ".sh", ".toml", ".md"}
# The places a machine keeps things in; a path there means nothing elsewhere. (In parts, so as not to find itself.)
PLACES = ("work", "workspace", "root", "home", "opt", "mnt", "Users")
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:" + "|".join(PLACES) + r")/")
OUTSIDE = re.compile(r"\.\./" + "shared")


def repository_files() -> list[Path]:
    """Tracked files, and untracked ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in result.stdout.split("\0") if name]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def text_of(file: Path) -> str | None:
    """The text of a file, or None for a binary one."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_no_large_file() -> None:
    assert [str(file) for file in repository_files() if file.stat().st_size > MAX_BYTES] == []


def test_no_long_source_file() -> None:
    """Every file can be read in one sitting."""
    long = {}
    for file in repository_files():
        if "support" in file.parts:
            continue  # tables that scripts/support_tables.py writes
        if file.suffix in SOURCE_SUFFIXES or "scripts" in file.parts:
            lines = (text_of(file) or "").count("\n")
            if lines > MAX_LINES:
                long[str(file.relative_to(ROOT))] = lines
    assert long == {}


def test_the_project_stands_alone() -> None:
    """No path of one machine, and nothing outside the repository."""
    found = []
    for file in repository_files():
        for number, line in enumerate((text_of(file) or "").splitlines(), 1):
            if MACHINE_PATH.search(line) or OUTSIDE.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_path_check_sees_paths() -> None:
    assert MACHINE_PATH.search("open('/" + "home/me/model.pt')")
    assert OUTSIDE.search("see ../" + "shared/X.md")
    assert not MACHINE_PATH.search("~/opt/x, https://example.org/home/x, $HOME/work/x")


def test_every_environment_variable_is_in_the_readme() -> None:
    """One table holds every ISOMORPH_* variable that the code, the scripts and the tests read."""
    used = set()
    for file in repository_files():
        if file.suffix != ".md":
            used |= set(re.findall(r"\bISOMORPH_[A-Z][A-Z_]*[A-Z]\b", text_of(file) or ""))
    table = set(re.findall(r"^\| `(ISOMORPH_[A-Z_]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used == table
