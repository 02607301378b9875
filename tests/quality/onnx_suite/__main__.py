"""`python -m tests.quality.onnx_suite [--filter RE] [--op OP ...] [--json FILE]`: what passes, by op, and why the rest
does not.

--filter RE     cases whose "kind/name" has a match of RE
--op OP ...     cases of these ops, their expanded function bodies too ("model": those of more than one node)
--load M:F      another importer, `F(ModelProto) -> callable of torch tensors`
--json FILE     every outcome
--all           ops that pass whole, too;   --trace   the first failure's traceback
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import traceback
from collections import defaultdict
from pathlib import Path

from tests.quality.onnx_suite.cases import Case, cases
from tests.quality.onnx_suite.expected import FAILS, UNREACHED
from tests.quality.onnx_suite.judge import Outcome, default_load, judge

FIELDS = ("result", "text", "gradient")


def main(argv: list[str] | None = None) -> int:
    """1 if a case does otherwise than the table says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="")
    parser.add_argument("--op", nargs="+", default=[])
    parser.add_argument("--load", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--trace", action="store_true")
    args = parser.parse_args(argv)
    load = default_load
    if args.load:
        module, _, name = args.load.partition(":")
        load = getattr(importlib.import_module(module), name)
    chosen = [c for c in cases() if (not args.op or c.op in args.op) and re.search(args.filter, c.id)]
    outcomes = []
    for case in chosen:
        outcome = judge(case, load)
        outcomes.append((case, outcome))
        if args.trace and outcome.error is not None:
            traceback.print_exception(outcome.error)
            args.trace = False
    show(outcomes, args.all)
    if args.json:
        rows = [
            {"id": c.id, "op": c.op, "result": o.result, "text": o.text, "gradient": o.gradient} for c, o in outcomes
        ]
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(o.passed == (c.id in FAILS) for c, o in outcomes) else 0


def show(outcomes: list[tuple[Case, Outcome]], all_ops: bool) -> None:
    """A row for each op, a line for each failure, and the sums."""
    by_op: dict[str, list[tuple[Case, Outcome]]] = defaultdict(list)
    for case, outcome in outcomes:
        by_op[case.op].append((case, outcome))
    for op, group in sorted(by_op.items()):
        passed = sum(o.passed for _, o in group)
        if passed < len(group) or all_ops:
            print(f"{op:32s} {passed:4d} of {len(group)}")
        for case, outcome in group:
            if not outcome.passed:
                print(f"    {case.id}: {outcome.result}: {outcome.text}{_known(case)}")
            elif case.id in FAILS:
                print(f"    {case.id}: passes, and is listed as failing")
            elif outcome.gradient is not None and outcome.gradient == (case.id in UNREACHED):
                verb = "reaches" if outcome.gradient else "does not reach"
                print(f"    {case.id}: autograd {verb} an input {outcome.text}")
    passed = sum(o.passed for _, o in outcomes)
    asked = [o.gradient for _, o in outcomes if o.gradient is not None]
    ops = sum(all(o.passed for _, o in group) for group in by_op.values())
    print(f"{passed} of {len(outcomes)} cases pass; {ops} of {len(by_op)} ops whole; ", end="")
    print(f"autograd reaches an input in {sum(asked)} of {len(asked)} that pass with floats in and out")


def _known(case: Case) -> str:
    return f" [known: {FAILS[case.id]}]" if case.id in FAILS else ""


if __name__ == "__main__":
    sys.exit(main())
