"""The record of one check: `isomorph check ... --report`. Loads no framework."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.routes import is_code
from isomorph.parity.record import EXIT_CODES, Place, Record, Result, Status, Subject
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import Settings
from isomorph.parity.verdict import Verdict

__all__ = ["now", "record_of_check", "record_of_error"]


def record_of_check(
    verdict: Verdict, original: ModelSpec, converted: ModelSpec, settings: Settings, arguments: Sequence[str] = (),
    seconds: float = 0.0,
) -> Record:  # fmt: skip
    """A record of one result. arguments: of the command line, after `isomorph`. seconds: all that it took.

    The place is the code, else the file, of the original or else of the converted model, relative to the working
    directory: for code review, which shows a finding in a file."""
    first, second = str(original.target), str(converted.target)
    result = Result(
        name=f"{first} = {second}", status=verdict.status, message=_message(verdict), original=first,
        converted=second, verdict=verdict.to_dict(), device=_device(original, converted),
        subjects=(*_subjects("original", original), *_subjects("converted", converted)),
        place=_place(first) or _place(second), settings=_plain(settings), seconds=seconds,
        artifacts={name: os.path.abspath(path) for name, path in verdict.artifacts.items()},
    )  # fmt: skip
    return _record(result, arguments, dict(verdict.environment))


def record_of_error(
    document: dict[str, Any], original: str, converted: str, arguments: Sequence[str] = (), seconds: float = 0.0
) -> Record:
    """Of a check that reached no verdict. document: `cli.error_document`. What no status of a record stands for (a
    wrong option, an interruption) is an ERROR; the message says which."""
    from isomorph.parity.environment import environment

    status: Status = document["status"] if document["status"] in EXIT_CODES else "ERROR"
    result = Result(
        name=f"{original} = {converted}", status=status, message=document["message"], original=original,
        converted=converted, place=_place(original) or _place(converted), seconds=seconds,
    )  # fmt: skip
    return _record(result, arguments, environment())


def now() -> str:
    """The time as a record has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record(result: Result, arguments: Sequence[str], environment: dict[str, str]) -> Record:
    command = shlex.join(["isomorph", *arguments]) if arguments else ""
    return Record((result,), now(), "isomorph check", command, environment, seconds=result.seconds)


def _message(verdict: Verdict) -> str:
    """What was found before what was compared: the status stands beside it."""
    if verdict.mismatches:
        return str(verdict.mismatches[0])
    if verdict.status != "PASS" and verdict.coverage.get("reason"):
        return str(verdict.coverage["reason"])
    return verdict.summary().splitlines()[0].partition(": ")[2]


def _device(original: ModelSpec, converted: ModelSpec) -> str:
    return " and ".join(dict.fromkeys((original.device, converted.device)))


def _plain(settings: Settings) -> dict[str, Any]:
    """The database is left out: it changes no answer, and need not be a path."""
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "database"}
    return {**found, "modes": list(settings.modes), "tolerances": dict(settings.tolerances)}


def _subjects(role: str, spec: ModelSpec) -> Iterator[Subject]:
    """The model with its hash, if it can be found on disk, and the weights that are loaded into it."""
    from isomorph.parity.gate import digest
    from isomorph.parity.gate.identity import of_text

    name, weights = str(spec.target), spec.weights
    if not is_code(name) and Path(name).exists():
        try:
            yield from digest.subjects(role, name, name)
            if weights is not None:
                said = digest.of(weights)
                yield Subject(role, str(weights), digest.DATA, said.sha256, said.size)
            return
        except UsageError:  # a folder with what cannot be hashed was judged all the same
            yield Subject(role, name, "file")
            return
    found = of_text(name, Path.cwd(), None if weights is None else str(weights))
    yield Subject(role, name, "code" if found else "object", found or "")


def _place(target: str) -> Place | None:
    if not is_code(target):
        return Place(_near(Path(target))) if Path(target).exists() else None
    from isomorph.parity.gate.identity import code_of

    code = code_of(target, Path.cwd())
    module, _, name = target.rpartition(":")
    if code is None:
        return None
    file = code.modules.get(module)
    file = file if file is not None and file.is_file() else next(iter(code.files), None)
    return None if file is None else Place(_near(file), _line(file, name))


def _near(path: Path) -> str:
    here, path = Path.cwd().resolve(), path.resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()


def _line(file: Path, name: str) -> int:
    """Of the definition of `name`; 1 where it is made in another way."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return 1
    first = name.partition(".")[0]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return next((node.lineno for node in body if isinstance(node, kinds) and node.name == first), 1)
