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
from .cli_convert import check_output, write_text
from .console import Console, json_text
from .gate.policy import NAME, PYPROJECT, Policy, load
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
    policy = None
    try:
        if options.blessing is not None and options.blessing.is_dir() and not options.list:
            from .gate import blessing

            blessing.clear(options.blessing)  # also where the gate file cannot be read
        policy = load(options.file)
        if options.list:
            return _list(options, streams, policy)
        _check(options, policy)
        record = _with_files(_record(options, policy, progress), options.report)
        written = list(_written(options, policy, record))
    except (Exception, KeyboardInterrupt) as error:
        failure = error_document(error)
        if isinstance(error, KeyboardInterrupt):
            kept = "; run again to go on from there" if not options.no_cache else ""
            failure["message"] = f"interrupted after {progress.done} of {progress.total} results{kept}"
        document = {"status": failure["status"], "exit_code": failure["exit_code"], "error": failure}
        if file is not None and file.resolve() not in _sources(options, policy):
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


def _check(options: argparse.Namespace, policy: Policy) -> None:
    """UsageError, before the long work: options contradict each other, or something could not be written."""
    if options.no_cache and (options.fresh or options.cache is not None):
        raise UsageError(f"--no-cache with {'--fresh' if options.fresh else '--cache'}: give one of them")
    if options.cache is not None and options.cache.exists() and not options.cache.is_dir():
        raise UsageError(f"--cache {options.cache} is no folder")
    _check_outputs(options, policy)


def _check_outputs(options: argparse.Namespace, policy: Policy) -> None:
    files = {"--verdict": options.verdict, "--json": None if options.json in (None, "-") else Path(options.json)}
    folders = {"--tensorboard": options.tensorboard, "--blessing": options.blessing}
    seen = dict.fromkeys(_sources(options, policy), "the gate file or a model of it")
    for option, path in [*files.items(), *folders.items(), *(("--report", Path(path)) for path in options.report)]:
        if path is not None:
            written = f"where {option} is written"
            if (other := seen.setdefault(path.resolve(), written)) != written:
                raise UsageError(f"{option} {path}: that is {other}")
    if options.report:
        from .report import faces

        for path in options.report:
            faces.check_path(path)
    if options.tensorboard is not None:
        from .report import tensorboard

        tensorboard.check_folder(options.tensorboard)
    for option, path in files.items():
        if path is not None:
            check_output(path, option)
    if options.blessing is not None:
        from .gate import blessing

        blessing.clear(options.blessing)


def _sources(options: argparse.Namespace, policy: Policy | None) -> Iterator[Path]:
    """The files that a run reads, which none of its results may take the place of."""
    given = (options.file or Path()).resolve()
    yield from (given, given / NAME, given / PYPROJECT)
    if policy is None:
        return
    for entry in policy.models:
        texts = (entry.source, entry.artifact, entry.weights, entry.artifact_weights)
        yield from (path.resolve() for text in texts if text and (path := policy.folder / Path(text)).exists())


def _record(options: argparse.Namespace, policy: Policy, progress: Progress) -> Record:
    from .cli_check import cache as cache_folder
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


def _written(options: argparse.Namespace, policy: Policy, record: Record) -> Iterator[str]:
    """Everything that was asked for is written; a line for each as it is done."""
    if options.report:
        from .report import faces

        for path in options.report:
            written = faces.write(record, path)
            yield f"wrote {path}"
            yield from written.notes
    if options.tensorboard is not None:
        from .report import tensorboard

        tensorboard.write(record, options.tensorboard)
        yield f"wrote {options.tensorboard}"
    if options.verdict is not None:
        from .gate import statement

        expected = [task.name for task in tasks_of(policy)]
        write_text(options.verdict, json_text(statement.of(record, expected, policy.valid_days)))
        yield f"wrote {options.verdict}"
    if options.blessing is not None:
        from .gate import blessing

        yield f"wrote {blessing.write(options.blessing, record)}"


def _with_files(record: Record, reports: list[str]) -> Record:
    """The files that belong to its results, such as reproducers, copied from the cache into the first folder of
    reports, if there is one."""
    if not reports:
        return record
    from .report import faces

    folder = next((place for place, many in map(faces.check_path, reports) if many), None)
    if folder is None:
        return record
    return replace(record, results=tuple(_copied(result, folder.absolute()) for result in record.results))


def _copied(result: Result, folder: Path) -> Result:
    here = folder / "artifacts" / re.sub(r"[^\w.-]+", "-", result.name).strip("-")
    shutil.rmtree(here, ignore_errors=True)
    found = {}
    try:
        for name, path in result.artifacts.items():
            target = here / name
            here.mkdir(parents=True, exist_ok=True)
            if Path(path).is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
            found[name] = str(target)
    except OSError as error:
        raise UsageError(f"--report {folder}: {error.filename or here} cannot be written: {error.strerror}") from error
    return replace(result, artifacts=found)


def _print(options: argparse.Namespace, streams: Console, record: Record, written: list[str]) -> None:
    if options.json == "-":
        streams.json(record.to_dict())
        return
    if options.quiet:
        streams.line(_headline(record))
        return
    from .report.terminal import record_page

    streams.table(record_page(record))
    for line in written:
        streams.line(line)


def _headline(record: Record) -> str:
    """The first line: status, and how many results have which."""
    statuses = [result.status for result in record.results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{record.status}  {record.title}: {counts or 'no result'}"
