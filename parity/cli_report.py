"""`isomorph report RECORD`: the faces of an earlier run, drawn from its report.json. Loads no framework."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .console import Console
from .record import Record
from .report import faces

__all__ = ["check_paths", "run", "write"]


def run(options: argparse.Namespace, streams: Console) -> int:
    """Draw what the options name, or print the record. 0: nothing is judged here."""
    record = faces.read(options.record)
    check_paths(options.output, options.tensorboard, "--output")
    for path in write(record, options.output, options.tensorboard, streams):
        streams.line(f"wrote {path}")
    if not options.output and options.tensorboard is None:
        from .report.terminal import record_page

        streams.table(record_page(record))
    return 0


def check_paths(paths: Sequence[str | Path], tensorboard: Path | None, option: str = "--report") -> None:
    """Before the long work: everything can be written. UsageError where it cannot."""
    for path in paths:
        faces.check_path(path, option)
    if tensorboard is not None:
        from .report import tensorboard as events

        events.check_folder(tensorboard)


def write(record: Record, paths: Sequence[str | Path], tensorboard: Path | None, streams: Console) -> tuple[Path, ...]:
    """Draw the record into every path, say on stderr what was left out, and return the files."""
    found: list[Path] = []
    for path in paths:
        written = faces.write(record, path)
        found += written
        for note in written.notes:
            streams.message(f"isomorph: {note}")
    if tensorboard is not None:
        from .report import tensorboard as events

        found += events.write(record, tensorboard)
    return tuple(found)
