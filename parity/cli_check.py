"""`isomorph check A B`: open both, compare, say the verdict. The exit code is the verdict's."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all

from .cli import error_document
from .cli_convert import check_output, write_text
from .console import Console, json_text
from .progress import Counter
from .runners.spec import ModelSpec
from .settings import Settings

GIGABYTE = 10**9


def run(options: argparse.Namespace, streams: Console) -> int:
    """Compare as the options say and return the exit code. An error is raised, after --json FILE says it."""
    file = Path(options.json) if options.json not in (None, "-") else None
    if file is not None:
        check_output(file, "--json")
    if options.reproduce is not None and options.reproduce.exists():
        raise UsageError(f"--reproduce {options.reproduce}: exists already; name a folder that does not")
    try:
        original, converted, settings = specs(options)
        document, text = _check(options, original, converted, settings, streams)
    except (Exception, KeyboardInterrupt) as error:
        if file is not None:
            failure = error_document(error)
            head = {"status": failure["status"], "exit_code": failure["exit_code"]}
            write_text(file, json_text({**head, "error": failure}))
        raise
    if file is not None:
        write_text(file, json_text(document))
    if options.json == "-":
        streams.json(document)
    elif options.quiet:
        streams.line(document["summary"].splitlines()[0])
    else:
        streams.table(text)
    return int(document["exit_code"])


def specs(options: argparse.Namespace) -> tuple[ModelSpec, ModelSpec, Settings]:
    """The two models and the settings of a command line. UsageError where they contradict."""
    parse_all(options.input)
    modes = ("eval", "train") if options.mode == "both" else (options.mode,)
    settings = Settings(
        modes, options.level, options.examples, not options.no_backward, options.seed, options.dtype, options.strict,
        options.budget, _tolerances(options.tolerance), str(options.database or cache() / "examples"),
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
) -> tuple[dict[str, Any], Any]:
    show = not options.quiet and options.json != "-"
    with Counter(streams.err, show) as count:
        count("start", 0, 0)
        from .check import examine
        from .report.terminal import verdict_page

        verdict = examine(original, converted, settings, count)
        if options.reproduce is not None and verdict.status == "FAIL":
            from .explaining.reproduce import reproduce

            folder = reproduce(verdict, original, converted, options.reproduce)
            verdict = replace(verdict, artifacts={**verdict.artifacts, "reproducer": str(folder)})
    document = {**verdict.to_dict(), "exit_code": verdict.exit_code, "summary": verdict.summary(),
                "original": str(original.target), "converted": str(converted.target)}  # fmt: skip
    return document, verdict_page(verdict, str(original.target), str(converted.target))


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
