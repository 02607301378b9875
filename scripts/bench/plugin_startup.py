"""What the pytest plugin costs a run that does not use it: start-up with and without it, side by side.

    python scripts/bench/plugin_startup.py                 30 pairs of runs of one empty test
    python scripts/bench/plugin_startup.py --pairs 100 --gate

without  seconds of the processor, of a run without it and without any other plugin: the least that there is to compare
ratio    the median, over pairs of runs, of the time with the plugin over that without it, and its 95 % interval
         (of the median: order statistics); 1.00 is no cost
noise    the same of pairs that are both without it: what this machine can tell at all
--gate   exit code 1 where the interval of the ratio is above 1.05

Each pair is two fresh processes, one after the other, in an order that changes. Time is the processor's, user and
system: a machine that does other things as well makes it little longer.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LIMIT = 1.05
WITH = ("-p", "isomorph.parity.plugin")


def seconds(folder: Path, more: Sequence[str]) -> float:
    """Of the processor, for one run. RuntimeError: the run is no such run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode or "1 passed" not in run.stdout:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}\n{run.stdout}{run.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios(folder: Path, pairs: int, first: Sequence[str], second: Sequence[str]) -> list[float]:
    """The time of a run with `first` over that of one with `second`, for each pair."""
    found = []
    for number in range(pairs):
        if number % 2:
            left, right = seconds(folder, first), seconds(folder, second)
        else:
            right, left = seconds(folder, second), seconds(folder, first)
        found.append(left / right)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the median."""
    ordered, reach = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = math.floor(len(values) / 2 - reach), math.ceil(len(values) / 2 + reach)
    return ordered[max(low, 0)], ordered[min(high, len(values) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description="What the pytest plugin costs a run that does not use it.")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--gate", action="store_true")
    options = parser.parse_args()
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text("def test_it(): pass\n")
        seconds(folder, WITH)  # fills the caches of compiled modules
        base = statistics.median(seconds(folder, ()) for _ in range(3))
        noise, ours = ratios(folder, options.pairs, (), ()), ratios(folder, options.pairs, WITH, ())
    print(f"without  {base * 1000:.0f} ms")
    for label, values in (("noise", noise), ("ratio", ours)):
        low, high = interval(values)
        print(f"{label}    {statistics.median(values):.3f}  [{low:.3f}, {high:.3f}]  ({len(values)} pairs)")
    return 1 if options.gate and interval(ours)[0] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
