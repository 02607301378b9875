"""Does the plugin work with this pytest? Runs its tests with versions that are not installed.

    scripts/pytest_versions                     the oldest that pyproject.toml declares
    scripts/pytest_versions 8.3.5 9.0.0         these
    scripts/pytest_versions 8.2.0 -- -k gate    a part of the tests

A version lies in a folder of its own, before everything else on the path: pytest and what it needs, nothing of the
frameworks. Needs a package index that pip can reach. Ends with 1 if a test fails, with 2 if a version cannot be had.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# pytest's own settings would reach into the runs that are made here.
INHERITED = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT",
             "PYTEST_XDIST_TESTRUNUID", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "CI")  # fmt: skip


class CannotBeHad(Exception):
    """pip could not install it: its last line says why."""


def oldest() -> str:
    """The oldest pytest that pyproject.toml declares, as three numbers. ValueError: it declares none."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    for requirement in declared:
        found = re.fullmatch(r"pytest>=(\d+(?:\.\d+)*)", requirement)
        if found:
            numbers = found[1].split(".")
            return ".".join(numbers + ["0"] * (3 - len(numbers)))
    raise ValueError("pyproject.toml declares no pytest>=...")


def install(version: str, folder: Path) -> Path:
    """Put this pytest, with what it needs, into a folder below `folder`, and return that. CannotBeHad."""
    target = folder / f"pytest-{version}"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "install",
               "--retries", "1", "--timeout", "20", "--target", str(target), f"pytest=={version}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise CannotBeHad(f"pytest {version}: pip did not come to an end in 300 s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise CannotBeHad(f"pytest {version}: {last}")
    return target


def environment(*first: Path) -> dict[str, str]:
    """The environment of a run with these folders before everything else on the path."""
    found = {name: value for name, value in os.environ.items() if name not in INHERITED}
    path = [*map(str, first), *filter(None, [found.get("PYTHONPATH")])]
    return {**found, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def run(environ: Mapping[str, str], arguments: Sequence[str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """pytest with these arguments in a folder; its output is caught."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=folder, env=dict(environ), capture_output=True, text=True, timeout=1800)


def main(given: Sequence[str]) -> int:
    at = list(given).index("--") if "--" in given else len(given)
    versions, arguments = list(given[:at]) or [oldest()], list(given[at + 1 :])
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            try:
                target = install(version, Path(folder))
            except CannotBeHad as error:
                print(f"cannot be had: {error}", file=sys.stderr)
                return 2
            tests = ["tests/plugin", "--ignore", "tests/plugin/test_versions.py", "-q", "-n", "0"]
            done = run(environment(target), [*tests, "-p", "no:cacheprovider", *arguments])
            print(
                done.stdout[-20000:] if done.returncode else done.stdout.strip().splitlines()[-1], done.stderr, sep=""
            )
            print(f"pytest {version}: {'fails' if done.returncode else 'passes'}")
            failed |= done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
