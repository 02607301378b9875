"""`python -m tests.quality.bugs [NAME ...]`: the catalogue as a Markdown table, as it is judged now."""

from __future__ import annotations

import sys
import time

from isomorph.parity.check import check
from isomorph.parity.verdict import Counterexample, Verdict
from tests.quality.bugs.catalogue import BUGS, Bug
from tests.quality.bugs.mutations import planted

COLUMNS = ("bug", "model", "found", "stage", "example", "smallest example", "module", "cause", "s")


def main(names: list[str]) -> int:
    """Print a row for each bug whose name holds one of `names`; the number of bugs that were not caught."""
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * len(COLUMNS)}")
    missed = 0
    for bug in BUGS:
        if names and not any(name in bug.name for name in names):
            continue
        start = time.perf_counter()
        with planted(bug.model, bug.mutation) as (net, conversion):
            verdict = check(net, conversion)
        missed += verdict.status != "FAIL"
        print(f"| {' | '.join([*row(bug, verdict), f'{time.perf_counter() - start:.1f}'])} |", flush=True)
    return missed


def row(bug: Bug, verdict: Verdict) -> list[str]:
    """The cells of one bug, without the time."""
    if verdict.status != "FAIL":
        return [bug.name, bug.model, verdict.status, *[""] * 5]
    first = next((m for m in verdict.mismatches if (m.kind, m.quantity) == bug.finds), verdict.mismatches[0])
    modules = dict.fromkeys(f"{found.direction}: {found.module or '(root)'}" for found in verdict.located)
    causes = dict.fromkeys(cause for found in verdict.located for cause in found.causes)
    return [
        bug.name,
        bug.model,
        f"{first.kind}, {first.quantity}",
        ", ".join(dict.fromkeys(c.stage for c in verdict.checks if c.failed)) or "signature",
        str(first.case or ""),
        smallest(verdict.counterexample),
        "; ".join(modules),
        "; ".join(list(causes)[:2]),
    ]


def smallest(example: Counterexample | None) -> str:
    """The shrunk inputs in a few words."""
    if example is None:
        return ""
    sizes = " ".join(f"{name}={size}" for name, size in example.case.sizes)
    inputs = ", ".join(f"{name} {each['nonzero']} nonzero" for name, each in example.inputs.items())
    return f"{example.case.distribution} {sizes}: {inputs}"


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
