"""What the findings of a check say of each array, and how errors are distributed: the evidence behind a verdict.

    book.add(stage, quantity, name, mode, dtype, finding)   for every comparison
    book.evidence(), book.distributions()                   at the end

Nothing of an example is kept but one figure for each array in the precision stage.
"""

from __future__ import annotations

import math
import statistics
from array import array
from dataclasses import dataclass, field

from isomorph.parity.compare import Finding
from isomorph.parity.spread import EDGES, Spread
from isomorph.parity.verdict import Distribution, Evidence

__all__ = ["MOST", "Book", "owner_of"]

MOST = 20_000  # arrays that a verdict lists; the worst are kept
OWNED = frozenset({"parameter", "parameter gradient", "buffer"})


@dataclass
class _Line:
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("equal", "failed", "inconclusive", "vacuous"), 0)
    )
    error: float = 0.0
    tolerance: float = 0.0
    floor: float | None = None
    rank: float = -1.0  # error in units of the tolerance
    ratios: array[float] = field(default_factory=lambda: array("d"))

    def add(self, finding: Finding) -> None:
        self.counts[finding.outcome if finding.agrees else "failed"] += 1
        if not _counts(finding):
            return
        if finding.ratio is not None:
            self.ratios.append(finding.ratio)
        rank = _rank(finding)
        if rank > self.rank:
            self.error, self.tolerance, self.floor = finding.relative, finding.allowed, finding.floor
            self.rank = rank


class Book:
    """Figures per array, and spreads per stage, quantity and dtype."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str, str, str], _Line] = {}
        self._spreads: dict[tuple[str, str, str], Spread] = {}

    def add(self, stage: str, quantity: str, name: str, mode: str, dtype: str, finding: Finding) -> None:
        """Count a finding."""
        key = (stage, quantity, name, mode, dtype)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        line.add(finding)
        if finding.spread is not None and _counts(finding):
            known = self._spreads.get((stage, quantity, dtype))
            if known is None:
                known = self._spreads[stage, quantity, dtype] = Spread.nothing()
            known.add(finding.spread)

    def evidence(self) -> tuple[Evidence, ...]:
        """One per array, stage, mode and dtype, in the order in which they were first compared. Of more than `MOST`
        those that failed, and then those nearest to their tolerance."""
        kept = list(self._lines.items())
        if len(kept) > MOST:
            worst = sorted(kept, key=lambda item: (-item[1].counts["failed"], -item[1].rank))[:MOST]
            chosen = {key for key, _ in worst}
            kept = [item for item in kept if item[0] in chosen]
        return tuple(_evidence(key, line) for key, line in kept)

    @property
    def left_out(self) -> int:
        """How many arrays `evidence` does not list."""
        return max(0, len(self._lines) - MOST)

    def distributions(self) -> tuple[Distribution, ...]:
        """One per stage, quantity and dtype in which floats were compared."""
        return tuple(
            Distribution(
                stage, quantity, dtype, EDGES, tuple(map(int, spread.counts)),
                () if spread.floor is None else tuple(map(int, spread.floor)), spread.exact, spread.floor_exact,
            )
            for (stage, quantity, dtype), spread in self._spreads.items()
        )  # fmt: skip


def owner_of(quantity: str, name: str) -> str:
    """The dotted path of the module that holds a parameter or buffer; "" for everything else, and for the model's own.

    Names are torch's ("block.fc.weight") or Keras' ("block/fc/kernel")."""
    if quantity not in OWNED:
        return ""
    return name.rpartition("/")[0].replace("/", ".") if "/" in name else name.rpartition(".")[0]


def _evidence(key: tuple[str, str, str, str, str], line: _Line) -> Evidence:
    stage, quantity, name, mode, dtype = key
    return Evidence(
        stage, quantity, name, mode, dtype, owner_of(quantity, name), sum(line.counts.values()), **line.counts,
        error=line.error, tolerance=line.tolerance, floor=line.floor,
        ratio=statistics.median(line.ratios) if line.ratios else None,
    )  # fmt: skip


def _counts(finding: Finding) -> bool:
    """Whether its figures mean anything: nothing is known of what is vacuous or inconclusive."""
    return finding.outcome == "equal" or not finding.agrees


def _rank(finding: Finding) -> float:
    if finding.allowed:
        return finding.relative / finding.allowed
    return math.inf if finding.relative else 0.0
