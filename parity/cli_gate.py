"""`isomorph gate [FILE]`: every model of a policy is judged. The exit code is that of the gravest result."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from isomorph.convert.errors import UsageError

from .cli import INTERRUPTED, error_document
from .cli_check import cache as cache_folder
from .cli_convert import check_output, write_text
from .console import Console, json_text
from .gate.policy import Policy, load
from .gate.progress import Progress, Shown
from .gate.selection import select
from .gate.tasks import tasks_of
from .record import Record, Result

__all__ = ["run"]

SCHEMA = "isomorph.tasks/1"  # of --list --json


def run(options: argparse.Namespace, streams: Console) -> int:
    """Judge as the options say and return the exit code. An error is raised, after --json FILE says it."""
    file = Path(options.json) if options.json not in (None, "-") else None
    if file is not None:
        check_output(file, "--json")
    progress = Progress() if options.quiet else Shown(streams.err)
    try:
        policy = load(options.file)
        if options.list:
            return _list(options, streams, policy)
        _check(options)
        record = _record(options, policy, progress)
        written = list(_written(options, policy, record))
    except (Exception, KeyboardInterrupt) as error:
        failure = error_document(error)
        if isinstance(error, KeyboardInterrupt):
            kept = "; run again to go on from there" if not options.no_cache else ""
            failure["message"] = f"interrupted after {progress.done} of {progress.total} results{kept}"
        document = {"status": failure["status"], "exit_code": failure["exit_code"], "error": failure}
        if file is not None:
            write_text(file, json_text(document))
        if not isinstance(error, KeyboardInterrupt):
            raise
        streams.message(f"isomorph: error: {failure['message']}")
        if options.json == "-":
            streams.json(document)
        return INTERRUPTED
    if file is not None:
        write_text(file, json_text(record.to_dict()))
    _print(options, streams, record, written)
    return record.exit_code


def _list(options: argparse.Namespace, streams: Console, policy: Policy) -> int:
    """--list: the names, or with --json what each task is."""
    tasks = select(tasks_of(policy), tuple(options.only))
    said = [
        {"name": task.name, "model": task.model, "kind": task.kind, "device": task.device, "dtype": task.dtype,
         "limit": task.limit, "source": task.entry.source, "converted": task.entry.converted,
         "file": task.place.file, "line": task.place.line}
        for task in tasks
    ]  # fmt: skip
    document = {"schema": SCHEMA, "policy": {"file": policy.file, "version": policy.version}, "tasks": said}
    if options.json == "-":
        streams.json(document)
        return 0
    if options.json is not None:
        write_text(Path(options.json), json_text(document))
    for task in tasks:
        streams.line(task.name)
    return 0


def _check(options: argparse.Namespace) -> None:
    """UsageError, before the long work: options contradict each other, or something could not be written."""
    if options.no_cache and (options.fresh or options.cache is not None):
        raise UsageError(f"--no-cache with {'--fresh' if options.fresh else '--cache'}: give one of them")
    if options.cache is not None and options.cache.exists() and not options.cache.is_dir():
        raise UsageError(f"--cache {options.cache} is no folder")
    paths = [("--report", path) for path in options.report]
    paths += [(f"--{name}", getattr(options, name)) for name in ("verdict", "tensorboard", "blessing")]
    if options.json not in (None, "-"):
        paths.append(("--json", Path(options.json)))
    seen = dict[Path, str]()
    for option, path in paths:
        if path is None:
            continue
        if option in ("--tensorboard", "--blessing") or (option == "--report" and _is_folder(path)):
            if path.exists() and not path.is_dir():
                raise UsageError(f"{option} {path} is no folder")
        else:
            check_output(path, option)
        if (other := seen.setdefault(path.resolve(), option)) != option:
            raise UsageError(f"{option} {path}: that is where {other} is written")


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _record(options: argparse.Namespace, policy: Policy, progress: Progress) -> Record:
    from .gate.cache import Cache
    from .gate.run import How
    from .gate.run import run as judge

    folder = (options.cache or cache_folder() / "gate").resolve()
    how = How(
        jobs=options.jobs, engine=options.engine, ray_address=options.ray_address, only=tuple(options.only),
        cache=None if options.no_cache else Cache(folder, options.fresh), artifacts=folder / "artifacts",
        fail_fast=options.fail_fast,
    )  # fmt: skip
    with progress:
        record = judge(policy, how, progress)
    only = [word for pattern in options.only for word in ("--only", pattern)]
    return replace(record, command=shlex.join(["isomorph", "gate", policy.file, *only]))


def _written(options: argparse.Namespace, policy: Policy, record: Record) -> Iterator[Path]:
    """Everything that was asked for is written; each path as it is done."""
    if options.report:
        from .report import faces

        for path in options.report:
            faces.write(_with_files(record, path) if _is_folder(path) else record, path)
            yield path
    if options.tensorboard is not None:
        from .report import tensorboard

        tensorboard.write(record, options.tensorboard)
        yield options.tensorboard
    if options.verdict is not None:
        from .gate import statement

        expected = [task.name for task in tasks_of(policy)]
        write_text(options.verdict, json_text(statement.of(record, expected, policy.valid_days)))
        yield options.verdict
    if options.blessing is not None:
        from .gate import blessing

        blessing.write(options.blessing, record)
        yield options.blessing


def _with_files(record: Record, folder: Path) -> Record:
    """The record as a folder of reports has it: the files that belong to its results are copied there."""

    def copied(result: Result) -> Result:
        if not result.artifacts:
            return result
        here = Path("artifacts") / re.sub(r"[^\w.-]+", "-", result.name).strip("-")
        found = {}
        for name, path in result.artifacts.items():
            target = folder / here / name
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(path).is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
            found[name] = (here / name).as_posix()
        return replace(result, artifacts=found)

    return replace(record, results=tuple(copied(result) for result in record.results))


def _print(options: argparse.Namespace, streams: Console, record: Record, written: list[Path]) -> None:
    if options.json == "-":
        streams.json(record.to_dict())
        return
    if options.quiet:
        streams.line(_headline(record))
        return
    from .report.terminal import record_page

    streams.table(record_page(record))
    for path in written:
        streams.line(f"wrote {path}")


def _headline(record: Record) -> str:
    """The first line: status, and how many results have which."""
    statuses = [result.status for result in record.results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{record.status}  {record.title}: {counts or 'no result'}"
