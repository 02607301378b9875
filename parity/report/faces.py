"""One record, many faces: which file gets which, and the way back from report.json. Standard library only.

    write(record, "report.html")     one face, by the suffix: .json .html .md .xml (JUnit) .sarif
    write(record, "reports/")        all of them, in a folder: FOLDER
    write(record, $GITHUB_STEP_SUMMARY)   markdown, appended to what the job has said so far
    read("report.json") -> Record    to draw other faces later

A face's library is imported when it is drawn. A record in memory may name the files of a result (`Result.artifacts`) by
absolute paths: they are written relative to the report's folder, and read back as absolute ones.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.whole import whole
from isomorph.parity.record import EXIT_CODES, BudgetLine, Record, Result

from .restore import number, restore

__all__ = ["FOLDER", "SUFFIXES", "Written", "check_path", "read", "write"]

SUFFIXES = (".json", ".html", ".md", ".xml", ".sarif")
FOLDER = ("report.json", "report.html", "report.md", "junit.xml", "report.sarif")
SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file in which a GitHub job collects its summary
NEEDS: Mapping[str, tuple[str, ...]] = {".html": ("jinja2", "vl_convert"), ".xml": ("junitparser",)}
KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


class Written(tuple[Path, ...]):
    """The files that were written. notes: what was left out, and why."""

    notes: tuple[str, ...] = ()


def write(record: Record, path: str | os.PathLike[str]) -> Written:
    """Draw the faces that `path` asks for and write them: everything is drawn before the first file is touched, and
    each file is written whole or not at all.

    path: a file by its suffix; a folder, existing or not (no suffix, or a slash at the end), gets `FOLDER`; the file
    that the variable GITHUB_STEP_SUMMARY names is appended to. A face of a folder whose libraries are not installed is
    left out, one of an earlier run that lies there is removed, and both are in the `notes` of what is returned.

    Raises:
        UsageError: the path is neither, cannot be written, or needs a library that is not installed.
    """
    path, many = check_path(path)
    if _is_summary(path):
        return _append(record, path)
    drawn: dict[Path, str] = {}
    left_out: dict[Path, str] = {}
    for file in [path / name for name in FOLDER] if many else [path]:
        try:
            drawn[file] = _draw(_placed(record, file.parent), file)
        except UsageError as error:
            if not many:
                raise
            left_out[file] = f"{file.name} was left out: {error}"
    first = next(iter(drawn))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    with whole(first) as scratch:  # all of them beside it, then moved into place together
        for file, text in drawn.items():
            scratch.with_name(file.name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    written = Written(drawn)
    written.notes = tuple(note + _remove(file) for file, note in left_out.items())
    return written


def check_path(path: str | os.PathLike[str], option: str = "--report") -> tuple[Path, bool]:
    """(the path, whether it is a folder), before the long work. UsageError: see `write`."""
    said = os.fspath(path)
    if not said:
        raise UsageError(f"{option}: the path is empty")
    path = Path(said)
    if _is_summary(path):
        return path, False
    many = path.is_dir() or (not path.exists() and (not path.suffix or said.endswith(("/", os.sep))))
    if not many:
        _check_file(path, option)
    top = path if many else path.parent
    while many and not top.exists() and top != top.parent:  # it is made, with the folders above it
        top = top.parent
    if not top.is_dir():
        raise UsageError(f"{option} {path}: there is no directory {top}")
    try:
        with tempfile.TemporaryFile(dir=top):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written: {error.strerror or error}") from error
    return path, many


def _check_file(path: Path, option: str) -> None:
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{option} {path}: the name must end in {KINDS}, or be that of a folder")
    missing = [name for name in NEEDS.get(path.suffix, ()) if find_spec(name) is None]
    if missing:
        raise UsageError(f"{option} {path} needs {' and '.join(missing)}: pip install 'isomorph[report]'")


def _draw(record: Record, file: Path) -> str:
    """The face that the name asks for. UsageError: its libraries are not installed."""
    if file.suffix == ".html":
        from .html import render

        text = render(record, file.parent)
    elif file.suffix == ".xml":
        try:
            from . import junit
        except ImportError:
            raise UsageError("JUnit XML needs junitparser: pip install 'isomorph[report]'") from None
        text = junit.draw(record)
    elif file.suffix == ".sarif":
        from . import sarif

        text = sarif.draw(record)
    elif file.suffix == ".md":
        from . import markdown

        text = markdown.draw(record)
    else:
        from isomorph.parity.console import json_text

        text = json_text(record.to_dict())
    # Half of a surrogate pair, from a name that is no UTF-8: as \udc80, which JSON understands.
    return text.encode("utf-8", "backslashreplace").decode()


def _is_summary(path: Path) -> bool:
    named = os.environ.get(SUMMARY)
    return bool(named) and os.path.abspath(path) == os.path.abspath(str(named))


def _append(record: Record, path: Path) -> Written:
    """GitHub drops a step's summary that is larger than its limit, so that what is there already counts."""
    from . import markdown

    try:
        size = path.stat().st_size if path.exists() else 0
        text = markdown.draw(record, markdown.LIMIT - size).encode("utf-8", "backslashreplace")
        with path.open("ab") as file:
            file.write((b"\n" if size else b"") + text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    return Written((path,))


def _remove(file: Path) -> str:
    """A face of an earlier run would be taken for this one's."""
    try:
        file.unlink()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{file} is of an earlier run and cannot be removed: {error.strerror or error}") from error
    return "; that of an earlier run was removed"


def _placed(record: Record, folder: Path) -> Record:
    """With the files of its results as they are found from the report's folder."""

    def near(path: str) -> str:
        try:
            return Path(os.path.relpath(path, folder)).as_posix() if os.path.isabs(path) else path
        except ValueError:  # on another drive
            return path

    return _with_artifacts(record, near)


def _with_artifacts(record: Record, changed: Any) -> Record:
    results = (
        replace(result, artifacts={name: changed(str(path)) for name, path in result.artifacts.items()})
        for result in record.results
    )
    return replace(record, results=tuple(results))


def read(path: str | os.PathLike[str]) -> Record:
    """The record that a report.json holds, or that of a folder of reports.

    Raises:
        UsageError: there is none, or the file is no record.
    """
    path = Path(path)
    path = path / FOLDER[0] if path.is_dir() else path
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON document: {error}") from error
    try:
        if not isinstance(said, dict) or not isinstance(said.get("results", []), list):
            raise ValueError("no object with a list of results")
        record = Record.from_dict(said)
        record = replace(
            record, results=tuple(map(_sound, record.results)), seconds=_seconds(record.seconds),
            notes=tuple(map(str, record.notes)), environment=dict(record.environment),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no report of isomorph (report.json): {error}") from error
    folder = path.absolute().parent
    return _with_artifacts(record, lambda name: os.path.normpath(folder / name))


def _sound(result: Result) -> Result:
    """As it was before JSON, where a number that is not finite is a text. ValueError, TypeError: it is no result."""
    if result.status not in EXIT_CODES:
        raise ValueError(f"{result.name!r:.60}: unknown status {result.status!r:.40}")
    restore(result.verdict)
    return replace(
        result, budgets=tuple(map(_budget, result.budgets)), seconds=_seconds(result.seconds),
        artifacts=dict(result.artifacts),
    )  # fmt: skip


def _budget(row: BudgetLine) -> BudgetLine:
    if number(row.limit) is None:
        raise ValueError(f"budget {row.name!r:.40}: the limit is no number")
    return replace(row, limit=_plain(row.limit), measured=_plain(row.measured))


def _plain(value: Any) -> Any:
    return number(value) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    found = number(value)
    return value if isinstance(value, int | float) and found is not None and math.isfinite(found) else 0.0
