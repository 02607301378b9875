"""A verdict, and a record, on a terminal: what was decided, on what evidence, what differs, and what was not judged.

Uses rich. What a model says of itself reaches the terminal as plain text: no markup, no control character.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isomorph.parity.record import EXIT_CODES, Record, Result
from isomorph.parity.verdict import Check, Counterexample, Located, Mismatch, Verdict

from .restore import restore
from .texts import MEANS, budget, counts, headline, line, located_lines, nonzero, plain, seconds, waiver

__all__ = ["record_page", "verdict_page"]

COLOURS = {"PASS": "bold green", "FAIL": "bold red", "ERROR": "bold red"}
SHOWN = 12  # mismatches listed
EXPANDED = 10  # results of a run that are shown in full


def verdict_page(verdict: Verdict, original: str, converted: str) -> Group:
    """Everything a person needs: the status first, then the table of comparisons, then failures and gaps."""
    head = Text.assemble(_status(verdict.status), f"  {line(original)}  =  {line(converted)}")
    return Group(head, *_parts(verdict))


def record_page(record: Record) -> Group:
    """A run: a line for each result, then in full what did not pass (a run of one result: that one)."""
    parts: list[Any] = [
        Text.assemble(
            _status(record.status), f"  {line(record.title)}: {line(counts(record))}, {seconds(record.seconds)}"
        )
    ]
    alone = len(record.results) == 1
    if not alone and record.results:
        parts.append(_results(record))
    order = list(EXIT_CODES)
    found = sorted((r for r in record.results if alone or not r.passed), key=lambda r: order.index(r.status))
    parts += [_result(result) for result in found[:EXPANDED]]
    if len(found) > EXPANDED:
        parts.append(_text(f"... and {len(found) - EXPANDED} more that did not pass"))
    if not alone:
        waivers = [f"waived in {r.name}: {waiver(row)}" for r in record.results if r.passed for row in r.waived]
        parts += [_text(line(said)) for said in waivers]
    parts += [_text(line(note)) for note in record.notes]
    return Group(*parts)


def _results(record: Record) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("status", "check", "says"):
        table.add_column(name, overflow="fold", no_wrap=name == "status")
    table.add_column("time", justify="right", no_wrap=True)
    for result in record.results:
        time = seconds(result.seconds) + (" (cached)" if result.cached else "")
        table.add_row(Text(*_status(result.status)), _text(line(result.name)), _text(headline(result)), time)
    return table


def _result(result: Result) -> Group:
    """One result in full."""
    verdict = restore(result.verdict)
    place = f"  ({line(result.place.file)}:{result.place.line})" if result.place else ""
    lines: list[Any] = [_text(headline(result))]
    if result.original or result.converted:
        lines.append(_text(f"{line(result.original)}  =  {line(result.converted)}"))
    lines += [_text(f"budget {budget(row)}", "" if row.kept else "red") for row in result.budgets]
    lines += [_text(f"waived by {waiver(row)}") for row in result.waived]
    if verdict is not None:
        lines += _parts(verdict)
    lines += [_text(line(f"{name}: {path}")) for name, path in result.artifacts.items()]
    if not result.passed and MEANS[result.status][1]:
        lines.append(_text(MEANS[result.status][1]))
    head = Text.assemble("\n", _status(result.status), f"  {line(result.name)}{place}")
    return Group(head, Padding(Group(*lines), (0, 0, 0, 2), expand=False))


def _status(status: str) -> tuple[str, str]:
    return line(status), COLOURS.get(status, "bold yellow")


def _text(said: Any, style: str = "") -> Text:
    return Text(plain(said), style=style)


def _parts(verdict: Verdict) -> Iterator[Any]:
    parts: list[Any] = []
    if verdict.coverage.get("reason"):
        parts.append(_text(verdict.coverage["reason"]))
    if verdict.checks:
        parts.append(_checks(verdict.checks))
    if verdict.mismatches:
        parts.append(_mismatches(verdict.mismatches))
    if verdict.counterexample is not None:
        parts.append(_counterexample(verdict.counterexample))
    parts += [_located(located) for located in verdict.located]
    parts.append(_coverage(verdict.coverage))
    parts += [_text(f"{name}: {path}") for name, path in verdict.artifacts.items()]
    yield from parts


def _checks(checks: tuple[Check, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "quantity", "mode", "dtype"):
        table.add_column(name)
    for name in ("names", "equal", "failed", "unclear", "empty", "worst", "allowed", "x own"):
        table.add_column(name, justify="right")
    for check in checks:
        style = "red" if check.failed else ""
        table.add_row(
            check.stage, check.quantity, check.mode, check.dtype, str(check.names), str(check.equal),
            str(check.failed), str(check.inconclusive), str(check.vacuous), f"{check.worst:.1e}",
            f"{check.tolerance:.1e}", "" if check.ratio is None else f"{check.ratio:.2g}", style=style,
        )  # fmt: skip
    return table


def _mismatches(mismatches: tuple[Mismatch, ...]) -> Group:
    lines = [Text("differences", style="bold")]
    lines += [_text(f"  {mismatch}", "red") for mismatch in mismatches[:SHOWN]]
    if len(mismatches) > SHOWN:
        lines.append(Text(f"  ... and {len(mismatches) - SHOWN} more"))
    return Group(*lines)


def _counterexample(found: Counterexample) -> Group:
    how = "values simplified" if found.shrunk else "as drawn"
    lines = [Text(f"smallest example ({found.mode} mode, {found.case}, {how}, {found.runs} runs)", style="bold")]
    for name, said in found.inputs.items():
        values = said.get("values")
        shown = f"{values}" if values is not None else nonzero(said.get("nonzero"))
        lines.append(_text(f"  {name} {said.get('dtype', '')}{said.get('shape', '')}: {shown}"))
    return Group(*lines)


def _located(located: Located) -> Group:
    return Group(*(_text(said, style) for said, style in located_lines(located)))


def _coverage(coverage: Mapping[str, Any]) -> Group:
    parameters = coverage.get("parameters", {})
    lines = []
    if parameters:
        compared, total = len(parameters.get("compared", ())), sum(len(parameters[k]) for k in parameters)
        lines.append(f"gradients compared of {compared} of {total} parameters")
    for name, sizes in coverage.get("dims", {}).items():
        lines.append(f"axis {name}: {', '.join(map(str, sizes))}")
    modules = coverage.get("modules")
    if modules and modules.get("never"):
        lines.append(f"modules that never ran: {', '.join(modules['never'][:8])}")
    lines += [f"not checked: {text}" for text in coverage.get("not_checked", ())]
    lines += [f"warning: {text}" for text in coverage.get("warnings", ())]
    lines.append(seconds(coverage.get("seconds", 0)))
    return Group(*map(_text, lines))
