"""Does the verdict reject honest pairs? Runs those of tests/quality/twins over many seeds, each with fresh weights and
fresh examples, and prints what was rejected, with the seed that shows it again.

    scripts/false_alarms --seeds 1000               the fast pairs at default settings
    scripts/false_alarms --pairs softmax resnet     some, fast or not
    scripts/false_alarms --level quick -j 2         three examples each; two processes

Results are appended to a file, one line per run, and runs that stand there already are not made again. Ends with 1 if
anything but a PASS was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums are then taken in the same order on every run
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for tests/, which is not installed

from tests.quality.twins.pairs import PAIRS

ROOT = Path(__file__).resolve().parent.parent

Run = tuple[str, int, str]  # pair, seed, level
AHEAD = 64  # runs handed to the processes before results are written


def code() -> str:
    """What the judging code is, in eight digits: results of other code are kept apart."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "parity").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def judge(run: Run) -> dict[str, Any]:
    """One check. worst: the largest error in units of its tolerance, over all arrays that were compared."""
    import isomorph

    pair, seed, level = run
    start = time.perf_counter()
    original, twin, inputs = PAIRS[pair].make(seed)
    verdict = isomorph.check(original, twin, inputs, seed=seed, level=level, **PAIRS[pair].options)
    return {
        "pair": pair,
        "seed": seed,
        "level": level,
        "status": verdict.status,
        "worst": max((c.worst / c.tolerance for c in verdict.checks if c.tolerance), default=0.0),
        "arrays": sum(check.compared for check in verdict.checks),
        "inconclusive": sum(check.inconclusive for check in verdict.checks),
        "seconds": round(time.perf_counter() - start, 3),
        "why": [str(m)[:300] for m in verdict.mismatches[:4]] or [str(verdict.coverage.get("reason", ""))],
    }


def results_of(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def batches(runs: Iterable[Run], size: int) -> Iterator[list[Run]]:
    iterator = iter(runs)
    while batch := list(islice(iterator, size)):
        yield batch


def work(runs: list[Run], processes: int, file: Path, version: str, console: Console) -> None:
    """Makes the runs, and appends each result as it comes."""
    start, done, alarms = time.monotonic(), 0, 0
    file.parent.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(processes) if processes > 1 else None
    with file.open("a", encoding="utf-8") as out:
        for batch in batches(runs, AHEAD):
            for row in pool.map(judge, batch) if pool else map(judge, batch):
                out.write(json.dumps({"code": version, **row}) + "\n")
                out.flush()
                alarms += row["status"] != "PASS"
            done += len(batch)
            left = (time.monotonic() - start) / done * (len(runs) - done)
            console.print(f"[dim]{done}/{len(runs)} runs, {alarms} alarms, {left / 60:.0f} min left[/]")
    if pool:
        pool.shutdown()


def report(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("pair", "level", "runs", "alarms", "worst error / tolerance", "inconclusive", "seconds")
    for column in table.columns[2:]:
        column.justify = "right"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["pair"], row["level"]), []).append(row)
    for (pair, level), found in groups.items():
        alarms = sum(row["status"] != "PASS" for row in found)
        unsure = sum(row["inconclusive"] for row in found) / max(1, sum(row["arrays"] for row in found))
        table.add_row(
            pair, level, str(len(found)), f"[red]{alarms}[/]" if alarms else "0",
            f"{max(row['worst'] for row in found if row['status'] == 'PASS' or alarms):.2g}",
            f"{unsure:.1%}", f"{statistics.median(row['seconds'] for row in found):.2f}",
        )  # fmt: skip
    console.print(table)
    alarms = [row for row in rows if row["status"] != "PASS"]
    for row in alarms:
        console.print(
            f"[red]{row['status']}[/] --pairs {row['pair']!r} --seed {row['seed']} --level {row['level']}",
            soft_wrap=True,
        )
        for why in row["why"]:
            console.print(f"    {why}", soft_wrap=True, markup=False, highlight=False)
    versions = len({row["code"] for row in rows})
    console.print(
        f"{len(rows)} runs, {len(alarms)} alarms" + (f", by {versions} versions of the code" * (versions > 1))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="runs of each pair (1000)")
    parser.add_argument("--seed", type=int, help="this seed alone: an alarm again")
    parser.add_argument("--pairs", nargs="+", metavar="NAME", help="of the pairs below, instead of the fast ones")
    parser.add_argument("--level", default="full", choices=("quick", "full", "thorough"))
    parser.add_argument("-j", type=int, default=1, dest="processes", help="processes (1)")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / "false_alarms.jsonl", help="file of results to add to"
    )
    parser.add_argument(
        "--report", action="store_true", help="print what stands in the file, whatever the code, and run nothing"
    )
    options = parser.parse_args()
    console = Console(highlight=False)
    unknown = [name for name in options.pairs or () if name not in PAIRS]
    if unknown:
        parser.error(f"no such pair: {', '.join(unknown)}; there are: {', '.join(PAIRS)}")
    rows = results_of(options.results)
    if not options.report:
        version = code()
        names = options.pairs or [name for name, pair in PAIRS.items() if pair.fast]
        seeds = range(options.seeds) if options.seed is None else (options.seed,)
        wanted = [(name, seed, options.level) for seed in seeds for name in names]
        known = {(row["pair"], row["seed"], row["level"]) for row in rows if row["code"] == version}
        work([run for run in wanted if run not in known], options.processes, options.results, version, console)
        asked = set(wanted)
        rows = [
            row for row in results_of(options.results)
            if row["code"] == version and (row["pair"], row["seed"], row["level"]) in asked
        ]  # fmt: skip
    report(rows, console)
    return int(any(row["status"] != "PASS" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
