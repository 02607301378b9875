"""Fuzzes the converter with random modules: each is converted, and the conversion checked.

    python -m tests.quality.fuzz --programs 300 --seed 1
    python -m tests.quality.fuzz --seed 1 --only 17          one program again: its source, what happened, shrunk

Prints every program that did not pass, shrunk to the steps that are needed for the same outcome. Ends with 1 if one
failed; NOTHING_COMPARED is the right answer for a program whose output is a constant up to rounding.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from isomorph.parity.fuzzing.grammar import PRODUCTIONS
from isomorph.parity.fuzzing.modules import CHOICES, INPUTS, Gene, Program, grow

__all__ = ["outcome"]

MAX_SIZE = 8


@dataclass(frozen=True)
class Genome:
    """What a program is grown from."""

    genes: tuple[Gene, ...]
    kinds: tuple[str, ...]
    seed: int

    def program(self) -> Program:
        return grow(self.genes, self.kinds, self.seed, MAX_SIZE)


def genome(seed: int) -> Genome:
    """A random one; the same for the same seed."""
    rng = random.Random(seed)
    names = sorted(PRODUCTIONS)
    genes = tuple((rng.choice(names), rng.randrange(CHOICES)) for _ in range(rng.randint(1, 2 * MAX_SIZE)))
    return Genome(genes, tuple(rng.choice(list(INPUTS)) for _ in range(rng.choice((1, 1, 2)))), seed)


def outcome(program: Program, level: str = "quick") -> tuple[str, str]:
    """("PASS", ...) or what went wrong, in a word; and the details."""
    import isomorph

    module, inputs = program.build()
    try:
        conversion = isomorph.to_keras(module, inputs)
    except Exception as error:  # whatever it is, it is an answer
        return type(error).__name__, str(error)
    verdict = isomorph.check(module, conversion, inputs, seed=program.seed, level=level)
    if verdict.status != "FAIL":
        return verdict.status, verdict.summary()
    kinds = sorted({f"{mismatch.kind} {mismatch.quantity}" for mismatch in verdict.mismatches[:3]})
    return f"FAIL {kinds[0]}", verdict.summary()


def smaller(found: Genome) -> Iterator[Genome]:
    """Simpler neighbours: without a gene, with smaller numbers, with one input."""
    for index in range(len(found.genes)):
        yield Genome(found.genes[:index] + found.genes[index + 1 :], found.kinds, found.seed)
    if len(found.kinds) > 1:
        yield from (Genome(found.genes, (kind,), found.seed) for kind in found.kinds)
    for index, (name, number) in enumerate(found.genes):
        for simpler in dict.fromkeys((0, number % 2, number % 64, number % 1024)):
            if simpler < number:
                yield Genome(
                    (*found.genes[:index], (name, simpler), *found.genes[index + 1 :]), found.kinds, found.seed
                )


def shrink(found: Genome, wanted: str, level: str, seconds: float) -> Genome:
    """The smallest genome on the way down that has the same outcome."""
    end = time.monotonic() + seconds
    seen = {found.program().source()}
    progress = True
    while progress and time.monotonic() < end:
        progress = False
        for attempt in smaller(found):
            source = attempt.program().source()
            size, now = len(source), len(found.program().source())
            if time.monotonic() > end:
                break
            if source in seen or size > now:
                if source == found.program().source() and len(attempt.genes) < len(found.genes):
                    found, progress = attempt, True
                    break
                continue
            seen.add(source)
            if outcome(attempt.program(), level)[0] == wanted:
                found, progress = attempt, True
                break
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other programs")
    parser.add_argument("--only", type=int, help="this program of the seed alone")
    parser.add_argument("--level", default="quick", choices=("quick", "full"))
    parser.add_argument("--shrink", type=float, default=120.0, metavar="SECONDS", help="for each failure (120; 0: no)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    numbers = range(options.programs) if options.only is None else [options.only]
    for number in numbers:
        found = genome(options.seed * 1_000_000 + number)
        result, details = outcome(found.program(), options.level)
        counts[result] += 1
        if result != "PASS":
            if options.shrink:
                found = shrink(found, result, options.level, options.shrink)
                details = outcome(found.program(), options.level)[1]
            print(
                f"=== {result}: --seed {options.seed} --only {number}\n{found.program().source()}\n{details[:1500]}\n",
                flush=True,
            )
        elif options.only is not None:
            print(found.program().source(), details, sep="\n")
        if sum(counts.values()) % 25 == 0:
            print(f"{sum(counts.values())} programs: {dict(counts)}", flush=True)
    print(", ".join(f"{count} {result}" for result, count in counts.most_common()))
    return int(any(result not in ("PASS", "NOTHING_COMPARED") for result in counts))


if __name__ == "__main__":
    sys.exit(main())
