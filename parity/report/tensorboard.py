"""A record as TensorBoard events, by the `tensorboard` package's own writer (extra `tensorboard`). No framework.

    DIR/RESULT/error         what was measured     worst/STAGE/QUANTITY/MODE DTYPE, modules/forward, modules/gradient
    DIR/RESULT/allowed       the tolerance         the same tags, so that one plot shows both
    DIR/RESULT/original      the original's own error, the noise floor (ratio: 1)

A module's step is its index in the verdict, the order of completion; the text "modules" of the run `error` says which
it is. Histograms are of log10 of the error relative to its scale. What is written again replaces what was there: no
run appears twice. Other runs in DIR stay.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.record import Record, Result
from isomorph.parity.verdict import Distribution, Verdict

from .restore import number, restore
from .texts import headline, line, plain

__all__ = ["check_folder", "write"]

# TensorBoard takes every file whose name holds "tfevents"; a name of ours, so that the next run replaces it.
FILE = "events.out.tfevents.0.isomorph"
LAID_OUT = ("error", "allowed", "original")
Scalar = tuple[str, str, int, float]  # run, tag, step, value


def write(record: Record, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write the events of every result, each into a folder of its name, and return the files.

    Raises:
        UsageError: the folder cannot be written, or the extra `tensorboard` is not installed.
    """
    check_folder(folder)
    drawn = {path: data for name, result in _named(record) for path, data in _drawn(result, name, _time(record))}
    folder = Path(folder)
    try:
        for name in dict.fromkeys(path.parts[0] for path in drawn):
            _replace(folder, name, {path: data for path, data in drawn.items() if path.parts[0] == name})
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error
    return tuple(folder / path for path in drawn)


def check_folder(folder: str | os.PathLike[str], option: str = "--tensorboard") -> None:
    """Before the long work. UsageError: see `write`."""
    if find_spec("tensorboard") is None:
        raise UsageError(f"{option} needs the package tensorboard: pip install 'isomorph[tensorboard]'")
    top = Path(folder)
    if not os.fspath(folder) or (top.exists() and not top.is_dir()):
        raise UsageError(f"{option} {folder} is no folder")
    while not top.exists() and top != top.parent:  # it is made, with the folders above it
        top = top.parent
    try:
        with tempfile.TemporaryFile(dir=top):
            pass
    except OSError as error:
        raise UsageError(f"{option} {folder} cannot be written: {error.strerror or error}") from error


def _replace(folder: Path, name: str, drawn: Mapping[Path, bytes]) -> None:
    """One result's files: written beside its folder, then put in the place of the runs that were there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing.") as scratch:
        for path, data in drawn.items():
            (Path(scratch) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / path).write_bytes(data)
        (folder / name).mkdir(exist_ok=True)
        for run in LAID_OUT:
            if (folder / name / run / FILE).is_file():
                shutil.rmtree(folder / name / run)
            if (Path(scratch) / name / run).is_dir():
                os.replace(Path(scratch) / name / run, folder / name / run)


def _named(record: Record) -> Iterator[tuple[str, Result]]:
    """Each result under a name that may be a folder's, and that no other has."""
    seen: set[str] = set()
    for result in record.results:
        first = re.sub(r"[^\w.,=-]+", "_", line(result.name)).strip("._")[:120] or "result"
        name = next(n for n in chain((first,), (f"{first}-{i}" for i in count(2))) if n.lower() not in seen)
        seen.add(name.lower())
        yield name, result


def _time(record: Record) -> float:
    """When it was made, in seconds since 1970: the same record gives the same bytes."""
    try:
        found = datetime.fromisoformat(record.created)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _drawn(result: Result, name: str, at: float) -> Iterator[tuple[Path, bytes]]:
    verdict = restore(result.verdict)
    scalars = [] if verdict is None else [*_stages(verdict), *_modules(verdict), *_times(verdict)]
    scalars += _budgets(result)
    for run in LAID_OUT:
        summaries = [_scalar(tag, step, value) for where, tag, step, value in scalars if where == run]
        if run == "error":
            summaries.append(_note("result", _about(result)))
            if verdict is not None:
                summaries += [_histogram(item, item.counts) for item in verdict.distributions if item.counts]
                summaries += [_note("modules", _legend(verdict))] if verdict.modules else []
        elif run == "original" and verdict is not None:
            summaries += [_histogram(item, item.floor) for item in verdict.distributions if item.floor]
        if summaries:
            yield Path(name) / run / FILE, _events(summaries, at)


def _stages(verdict: Verdict) -> Iterator[Scalar]:
    for check in verdict.checks:
        if check.compared:
            where = f"{check.stage}/{check.quantity}/{check.mode} {check.dtype}"
            yield "error", f"worst/{where}", 0, check.worst
            yield "allowed", f"worst/{where}", 0, check.tolerance
            if check.ratio is not None:
                yield "error", f"ratio/{where}", 0, check.ratio
                yield "original", f"ratio/{where}", 0, 1.0


def _modules(verdict: Verdict) -> Iterator[Scalar]:
    for index, module in enumerate(verdict.modules):
        for direction in ("forward", "gradient"):
            for run, field in (("error", direction), ("original", f"{direction}_floor")):
                value = getattr(module, field)
                if value is not None:
                    yield run, f"modules/{direction}", index, value


def _times(verdict: Verdict) -> Iterator[Scalar]:
    timings = verdict.coverage.get("timings")
    for stage, value in timings.items() if isinstance(timings, Mapping) else ():
        spent = number(value)
        if spent is not None:
            yield "error", f"seconds/{stage}", 0, spent


def _budgets(result: Result) -> Iterator[Scalar]:
    for row in result.budgets:
        yield "allowed", f"budget/{row.name} ({row.unit})", 0, row.limit
        if row.measured is not None:
            yield "error", f"budget/{row.name} ({row.unit})", 0, row.measured


def _about(result: Result) -> str:
    """Markdown, as TensorBoard's page of texts takes it; its own page makes it safe."""
    return f"{result.status} {line(result.original)} = {line(result.converted)}\n\n    {headline(result)}"


def _legend(verdict: Verdict) -> str:
    rows = [f"    {i:>5}  {line(m.path) or '(model)'}  {line(m.kind)}" for i, m in enumerate(verdict.modules)]
    return "\n".join(["    step  module", *rows])


def _scalar(tag: str, step: int, value: float) -> tuple[int, Any]:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return step, Summary(value=[Summary.Value(tag=plain(tag), simple_value=float(value))])


def _note(tag: str, text: str) -> tuple[int, Any]:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    said = TensorProto(dtype=DT_STRING, string_val=[plain(text).encode()])
    metadata = create_summary_metadata(display_name=None, description=None)
    return 0, Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=said)])


def _histogram(item: Distribution, counts: Sequence[int]) -> tuple[int, Any]:
    """Its bins as they are; elements without any error are not in it. The moments are those of the bins' middles."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    middles = [(low + high) / 2 for low, high in pairwise(item.edges)]
    pairs = list(zip(middles, counts, strict=True))
    histogram = HistogramProto(
        min=item.edges[0], max=item.edges[-1], num=sum(counts),
        sum=sum(m * n for m, n in pairs), sum_squares=sum(m * m * n for m, n in pairs),
        # The first limit closes an empty bin: what lies below the first edge.
        bucket_limit=list(item.edges), bucket=[0, *counts],
    )  # fmt: skip
    tag = plain(f"log10 error/{item.stage}/{item.quantity}/{item.dtype}")
    return 0, Summary(value=[Summary.Value(tag=tag, histo=histogram)])


def _events(summaries: Iterable[tuple[int, Any]], at: float) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=at, file_version="brain.Event:2").SerializeToString())
    for step, summary in summaries:
        writer.write(Event(wall_time=at, step=step, summary=summary).SerializeToString())
    return file.getvalue()
