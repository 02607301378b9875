"""The options of `isomorph gate` and `isomorph gate verify`. Light: every start of the command makes them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isomorph.parity.report.options import add_report_options

__all__ = ["VERIFY", "add_gate"]

VERIFY = "gate verify"  # the name of the command: two words, which `cli.main` joins

_CODES = """exit codes, of the gravest result:
  0  PASS                                  6  NOT_FOUND: a model is not there
  1  FAIL: not the same model              7  BUDGET: a budget was not kept
  2  a wrong option or gate file           9  WAIVER_EXPIRED
  3  UNSUPPORTED                          10  WAIVER_UNUSED: it waives nothing
  4  ERROR: a task came to no verdict    130  interrupted; run again to go on
  5  NOTHING_COMPARED"""
_VERIFY_CODES = """exit codes:
  0  this very file passed                11  a changed byte, or no model of this verdict
  1  the verdict is no PASS               12  made under an older policy
  2  something cannot be read             13  the verdict has expired"""


def add_gate(commands: Any) -> None:
    """Both commands, added to the parser's `commands`."""
    _add_run(_parser(commands, "gate", "every model of a policy, judged before a deployment", _CODES, _RUN))
    _add_verify(_parser(commands, VERIFY, "was this very file passed? by hash, without a framework", _VERIFY_CODES,
                        "Say whether these very files passed the gate that made VERDICT."))  # fmt: skip


_RUN = """Judge every [[model]] of a gate file: its checks and its budgets, and the waivers.

FILE is a gate file, or a folder that holds one: isomorph.toml, else pyproject.toml with [tool.isomorph] (default: the
working directory). `isomorph gate verify` says whether a file has passed."""


def _parser(commands: Any, name: str, summary: str, codes: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, epilog=codes, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


def _add_run(gate: argparse.ArgumentParser) -> None:
    gate.add_argument("file", metavar="FILE", nargs="?", type=Path)
    gate.add_argument("--only", action="append", default=[], metavar="MODEL",
                      help="only these models: a name, with * and ? for any part; repeatable")  # fmt: skip
    gate.add_argument("-j", "--jobs", type=_jobs, default=1, metavar="N",
                      help="so many tasks at once; auto: as many as there are processors (default: 1)")  # fmt: skip
    gate.add_argument("--engine", choices=["process", "inline", "ray"], default="process",
                      help="a process for each task (default), this process, or a Ray cluster")  # fmt: skip
    gate.add_argument("--ray-address", metavar="ADDRESS",
                      help="of the cluster: auto, HOST:PORT, ray://HOST:PORT; local starts one (default)")  # fmt: skip
    gate.add_argument("--cache", type=Path, metavar="DIR",
                      help="where results are kept (default: isomorph's folder in the user's cache)")  # fmt: skip
    gate.add_argument("--no-cache", action="store_true", help="read no earlier results and keep none")
    gate.add_argument("--fresh", action="store_true", help="read no earlier results, but keep the new ones")
    gate.add_argument("--fail-fast", action="store_true", help="begin nothing new after the first failure")
    add_report_options(gate)
    gate.add_argument("--verdict", type=Path, metavar="FILE", help="write the verdict as an in-toto Statement")
    gate.add_argument("--blessing", type=Path, metavar="DIR", help="write BLESSED or NOT_BLESSED there, as TFX does")
    gate.add_argument("--list", action="store_true", help="print the tasks and stop")
    gate.add_argument("--json", metavar="FILE", help="write the record there as JSON; - for stdout")
    gate.add_argument("-q", "--quiet", action="store_true", help="print the first line only")


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("verdict", metavar="VERDICT", help="what isomorph gate --verdict wrote, or an envelope")
    verify.add_argument("models", metavar="MODEL", nargs="+", help="a file or folder that is to be deployed")
    verify.add_argument("--policy", metavar="FILE", help="the gate file that has to hold, not an older one")
    verify.add_argument("--at", metavar="DATE", help="as of then, ISO 8601 (default: now)")
    verify.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _jobs(text: str) -> int:
    import os

    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024, nor auto")
    return int(text)
