"""`isomorph check A B`: open both, compare, say the verdict. The exit code is the verdict's."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all

from . import cli_report
from .cli import error_document
from .cli_convert import check_output, write_text
from .console import Console, json_text
from .progress import Counter
from .report.of_check import record_of_check, record_of_error
from .runners.spec import ModelSpec
from .settings import Settings
from .verdict import Verdict

GIGABYTE = 10**9


def run(options: argparse.Namespace, streams: Console) -> int:
    """Compare as the options say and return the exit code. An error is raised, after --json and --report say it."""
    file = Path(options.json) if options.json not in (None, "-") else None
    if file is not None:
        check_output(file, "--json")
    if options.reproduce is not None and options.reproduce.exists():
        raise UsageError(f"--reproduce {options.reproduce}: exists already; name a folder that does not")
    cli_report.check_paths(options.report, options.tensorboard)
    since = time.perf_counter()
    try:
        original, converted, settings = specs(options)
        verdict = _check(options, original, converted, settings, streams)
    except (Exception, KeyboardInterrupt) as error:
        failure = error_document(error)
        if file is not None:
            head = {"status": failure["status"], "exit_code": failure["exit_code"]}
            write_text(file, json_text({**head, "error": failure}))
        if _reported(options):
            said = record_of_error(failure, options.original, options.converted, options.arguments, _since(since))
            cli_report.write(said, options.report, options.tensorboard, streams)
        raise
    document = {**verdict.to_dict(), "exit_code": verdict.exit_code, "summary": verdict.summary(),
                "original": str(original.target), "converted": str(converted.target)}  # fmt: skip
    if file is not None:
        write_text(file, json_text(document))
    if options.json == "-":
        streams.json(document)
    elif options.quiet:
        streams.line(document["summary"].splitlines()[0])
    else:
        from .report.terminal import verdict_page

        streams.table(verdict_page(verdict, str(original.target), str(converted.target)))
    if _reported(options):
        record = record_of_check(verdict, original, converted, settings, options.arguments, _since(since))
        written = cli_report.write(record, options.report, options.tensorboard, streams)
        if options.json != "-" and not options.quiet:
            streams.line("\n".join(f"wrote {path}" for path in written))
    return verdict.exit_code


def _reported(options: argparse.Namespace) -> bool:
    return bool(options.report) or options.tensorboard is not None


def _since(moment: float) -> float:
    return round(time.perf_counter() - moment, 3)


def specs(options: argparse.Namespace) -> tuple[ModelSpec, ModelSpec, Settings]:
    """The two models and the settings of a command line. UsageError where they contradict."""
    parse_all(options.input)
    modes = ("eval", "train") if options.mode == "both" else (options.mode,)
    settings = Settings(
        modes, options.level, options.examples, not options.no_backward, options.seed, options.dtype, options.strict,
        options.budget, _tolerances(options.tolerance), str(options.database or cache() / "examples"),
        steps=options.steps, profile=options.modules or _reported(options),
    )  # fmt: skip
    memory = None if options.memory is None else int(options.memory * GIGABYTE)
    both = ModelSpec(
        "", tuple(options.input), seed=options.seed, isolate=options.isolate, timeout=options.timeout, memory=memory
    )

    def side(target: str, letter: str, weights: Path | None) -> ModelSpec:
        given = {name: getattr(options, f"{name}_{letter}") for name in ("device", "backend", "python")}
        return replace(
            both, target=target, weights=None if weights is None else str(weights),
            device=given["device"] or options.device, backend=given["backend"], python=given["python"],
        )  # fmt: skip

    return side(options.original, "a", options.weights), side(options.converted, "b", options.weights_b), settings


def _check(
    options: argparse.Namespace, original: ModelSpec, converted: ModelSpec, settings: Settings, streams: Console
) -> Verdict:
    show = not options.quiet and options.json != "-"
    with Counter(streams.err, show) as count:
        count("start", 0, 0)
        from .check import examine

        verdict = examine(original, converted, settings, count)
        if options.reproduce is not None and verdict.status == "FAIL":
            from .explaining.reproduce import reproduce

            folder = reproduce(verdict, original, converted, options.reproduce)
            verdict = replace(verdict, artifacts={**verdict.artifacts, "reproducer": str(folder)})
    return verdict


def _tolerances(texts: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        kind, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--tolerance {text!r}: the form is KIND=VALUE, for example int8=0.05")
        found[kind.strip()] = value
    return found


def cache() -> Path:
    """Where isomorph keeps what it can make again: XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isomorph"
