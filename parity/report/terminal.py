"""A verdict on a terminal: what was decided, on what evidence, what differs, and what was not judged. Uses rich."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from isomorph.parity.verdict import Check, Counterexample, Located, Mismatch, Verdict

__all__ = ["verdict_page"]

COLOURS = {"PASS": "bold green", "FAIL": "bold red", "ERROR": "bold red"}
SHOWN = 12  # mismatches listed
MODULES = 8  # modules listed of a located difference


def verdict_page(verdict: Verdict, original: str, converted: str) -> Group:
    """Everything a person needs: the status first, then the table of comparisons, then failures and gaps."""
    head = Text.assemble((verdict.status, COLOURS.get(verdict.status, "bold yellow")), f"  {original}  =  {converted}")
    parts: list[Any] = [head]
    if verdict.coverage.get("reason"):
        parts.append(Text(str(verdict.coverage["reason"])))
    if verdict.checks:
        parts.append(_checks(verdict.checks))
    if verdict.mismatches:
        parts.append(_mismatches(verdict.mismatches))
    if verdict.counterexample is not None:
        parts.append(_counterexample(verdict.counterexample))
    parts += [_located(located) for located in verdict.located]
    parts.append(_coverage(verdict.coverage))
    parts += [Text(f"{name}: {path}") for name, path in verdict.artifacts.items()]
    return Group(*parts)


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
    lines += [Text(f"  {mismatch}", style="red") for mismatch in mismatches[:SHOWN]]
    if len(mismatches) > SHOWN:
        lines.append(Text(f"  ... and {len(mismatches) - SHOWN} more"))
    return Group(*lines)


def _counterexample(found: Counterexample) -> Group:
    how = "values simplified" if found.shrunk else "as drawn"
    lines = [Text(f"smallest example ({found.mode} mode, {found.case}, {how}, {found.runs} runs)", style="bold")]
    for name, said in found.inputs.items():
        values = said["values"]
        shown = f"{values}" if values is not None else f"{said['nonzero']} elements are not zero"
        lines.append(Text(f"  {name} {said['dtype']}{said['shape']}: {shown}"))
    return Group(*lines)


def _located(located: Located) -> Group:
    module = located.module or "the model itself"
    kind = f" ({located.kind})" if located.kind else ""
    lines = [Text(f"parts {located.direction} at {module}{kind}", style="bold")]
    lines += [Text(f"  likely: {cause}", style="yellow") for cause in located.causes]
    if located.note:
        lines.append(Text(f"  {located.note}"))
    at = next((i for i, m in enumerate(located.modules) if m.path == located.module), len(located.modules))
    first = max(0, at - MODULES // 2)
    for error in located.modules[first : first + MODULES]:
        local = "-" if error.local is None else f"{error.local:.1e}"
        total = "-" if error.accumulated is None else f"{error.accumulated:.1e}"
        here = ">" if error.path == located.module else " "
        lines.append(Text(f" {here} {error.path or '(model)'}: own error {local}, accumulated {total}"))
    return Group(*lines)


def _coverage(coverage: Mapping[str, Any]) -> Group:
    parameters = coverage.get("parameters", {})
    lines = []
    if parameters:
        compared, total = len(parameters["compared"]), sum(len(parameters[k]) for k in parameters)
        lines.append(f"gradients compared of {compared} of {total} parameters")
    for name, sizes in coverage.get("dims", {}).items():
        lines.append(f"axis {name}: {', '.join(map(str, sizes))}")
    modules = coverage.get("modules")
    if modules and modules.get("never"):
        lines.append(f"modules that never ran: {', '.join(modules['never'][:8])}")
    lines += [f"not checked: {text}" for text in coverage.get("not_checked", ())]
    lines += [f"warning: {text}" for text in coverage.get("warnings", ())]
    lines.append(f"{coverage.get('seconds', 0):.1f} s")
    return Group(*(Text.from_markup(escape(line)) for line in lines))
