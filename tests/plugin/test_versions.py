"""The oldest pytest of the declared range, installed into a folder beside the newest: both run the same tests."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scripts import pytest_versions
from scripts.pytest_versions import ROOT, CannotBeHad
from tests.plugin.test_xdist import FIRST, GATE, LIGHT

# Every option of the plugin at once.
OPTIONS = [
    "--parity-device", "cpu", "--parity-examples", "2", "--parity-budget", "600", "--parity-profile", "dev",
    "--parity-seed", "3", "--parity-report", "out", "--parity-update-baseline",
]  # fmt: skip
INI = "[pytest]\nparity_baseline = known.json\nfilterwarnings = error\n    ignore:.*:DeprecationWarning\n"
MARKED = """
@pytest.mark.parity(examples=1, modes=("eval",), backward=False, dtype="own", budget=600)
def test_marked(parity):
    parity(double, twice, (X,))
"""
EXPECTED = {
    "test_inner.py::test_last_in_name": "PASS", "test_inner.py::test_each[1]": "PASS",
    "test_inner.py::test_each[1] #2": "PASS", "test_inner.py::test_each[9]": "PASS",
    "test_inner.py::test_each[9] #2": "PASS", "test_inner.py::test_each[10]": "PASS",
    "test_inner.py::test_each[10] #2": "PASS", "test_inner.py::test_differs[wrong.__call__]": "FAIL",
    "test_inner.py::test_differs[wrong]": "FAIL", "test_inner.py::test_known": "PASS",
    "test_inner.py::test_raises_first": "ERROR", "test_inner.py::test_in_a_fixture": "PASS",
    "test_inner.py::test_marked": "PASS", "isomorph.toml::same::check[cpu,both]": "PASS",
    "isomorph.toml::waiver::needless": "WAIVER_UNUSED",
}  # fmt: skip


@pytest.fixture
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the oldest pytest; skips, in CI fails, where no index can be reached."""
    return had(pytest_versions.oldest(), tmp_path_factory.mktemp("overlay"))


def had(version: str, folder: Path) -> Path:
    try:
        return pytest_versions.install(version, folder)
    except CannotBeHad as error:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail(f"cannot be had: {error}", pytrace=False)
        pytest.skip(f"cannot be had: {error}")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Tests of every kind, that fail and pass, and a gate file."""
    files = {"test_inner.py": LIGHT + FIRST + MARKED, "isomorph.toml": GATE, "functions.py": LIGHT, "pytest.ini": INI}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def statuses(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "out" / "report.json").read_text())
    return {result["name"]: result["status"] for result in record["results"]}


def test_the_oldest_version_is_the_one_that_is_declared() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        said = tomllib.load(file)
    minimum = said["tool"]["pytest"]["ini_options"]["minversion"]
    assert pytest_versions.oldest() in (minimum, f"{minimum}.0")


@pytest.mark.slow
def test_the_oldest_pytest_runs_all_that_the_newest_does(old: Path, suite: Path) -> None:
    environ = pytest_versions.environment(old)
    done = pytest_versions.run(environ, ["-v", "test_inner.py", "isomorph.toml", *OPTIONS, "-n", "2"], suite)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert f"pytest-{pytest_versions.oldest()}" in done.stdout
    plugins = next(line for line in done.stdout.splitlines() if line.startswith("plugins:"))
    assert all(f"{name}-" in plugins for name in ("isomorph", "hypothesis", "xdist"))
    assert statuses(suite) == EXPECTED
    assert len(json.loads((suite / "known.json").read_text())["entries"]) == 10
    assert "Traceback" not in done.stdout + done.stderr

    only = pytest_versions.run(environ, ["-q", "--collect-only", "--lf", "test_inner.py", "isomorph.toml"], suite)
    assert [line for line in only.stdout.splitlines() if "::" in line] == [
        "test_inner.py::test_differs[wrong]", "test_inner.py::test_differs[wrong.__call__]",
        "test_inner.py::test_raises_first",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_newest_pytest_says_the_same(suite: Path) -> None:
    arguments = ["-v", "test_inner.py", "isomorph.toml", *OPTIONS, "-p", "no:xdist"]
    done = pytest_versions.run(pytest_versions.environment(), arguments, suite)
    assert f"pytest-{pytest.__version__}" in done.stdout
    assert statuses(suite) == EXPECTED


def test_without_an_index_it_is_skipped_and_in_ci_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"pytest 0\.0\.1: ERROR: No matching distribution"):
        had("0.0.1", tmp_path)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"cannot be had: pytest 0\.0\.1"):
        had("0.0.1", tmp_path)
    assert pytest_versions.main(["0.0.1"]) == 2
