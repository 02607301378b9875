"""The options of the reports. Light: the whole command line is made of them at each start."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_report", "add_report_options"]

_KINDS = ".json, .html, .md, .xml (JUnit) or .sarif; a folder gets all; repeatable"


def add_report(commands: Any) -> None:
    """`isomorph report`, added to the parser's `commands`."""
    report = commands.add_parser(
        "report",
        help="draw the reports of an earlier run from its report.json",
        allow_abbrev=False,
        description="Draw the reports of an earlier run from its report.json; without -o, print it. Nothing is judged: "
        "the exit code is 0 where everything was drawn, whatever the run's was, else 2.",
    )
    report.add_argument("record", metavar="RECORD", type=Path, help="report.json, or a folder with one")
    report.add_argument("-o", "--output", action="append", default=[], metavar="PATH", help=f"write {_KINDS}")
    _add_tensorboard(report)


def add_report_options(command: argparse.ArgumentParser) -> None:
    """`--report` and `--tensorboard` of a command that judges. Paths stay texts: a slash at the end means a folder."""
    command.add_argument("--report", action="append", default=[], metavar="PATH", help=f"write a report: {_KINDS}")
    _add_tensorboard(command)


def _add_tensorboard(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tensorboard", type=Path, metavar="DIR", help="write scalars and histograms for TensorBoard")
