"""What has been compared so far: counts per stage, mismatches merged over examples, votes of the precision stage.
Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from isomorph.parity.compare import Finding
from isomorph.parity.evidence import Book
from isomorph.parity.verdict import Case, Check, Mismatch

__all__ = ["Ledger"]

VOTE_EXAMPLES = 2  # a float32 difference in one example is not enough to reject
VOTE_SHARE = 0.1
KINK_SHARE = 0.5
# Distributions whose symmetry makes elements equal in exact arithmetic only: which of them is the largest is decided by
# rounding, in two right programs differently.
SYMMETRIC = frozenset({"edge", "constant", "equal_channels", "sparse", "zeros", "onehot"})
CONTINUOUS = frozenset({"normal", "large", "wide"})  # distributions whose draws meet a tie or bound with probability 0
WARNINGS_OF_OTHERS = frozenset({"kink", "leak"})  # failures for our own conversions, warnings for anyone else's


@dataclass
class _Tally:
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("equal", "failed", "inconclusive", "vacuous"), 0)
    )
    names: set[str] = field(default_factory=set)
    worst: float = 0.0
    tolerance: float = 0.0
    ratios: list[float] = field(default_factory=list)

    def add(self, name: str, finding: Finding) -> None:
        self.counts[finding.outcome if finding.agrees else "failed"] += 1
        self.names.add(name)
        if finding.outcome == "equal" or not finding.agrees:
            if finding.allowed and finding.relative / finding.allowed >= (
                self.worst / self.tolerance if self.tolerance else 0
            ):
                self.worst, self.tolerance = finding.relative, finding.allowed
            if finding.ratio is not None:
                self.ratios.append(finding.ratio)


@dataclass
class _Vote:
    examples: int = 0
    failing: list[tuple[Finding, Case]] = field(default_factory=list)


class Ledger:
    """Collects findings and turns them into `Check`s and `Mismatch`es.

    strict: whether kinks and leaks are mismatches; otherwise they are warnings. rounded: leaks are warnings in any
    case: the float64 twin of one model has its constants as they were written, that of the other as float32 holds them.
    book: the figures of every array.
    """

    def __init__(self, strict: bool = True, rounded: bool = False) -> None:
        self.warnings: list[str] = []
        self.strict, self.rounded = strict, rounded
        self.book = Book()
        self.kinds: dict[str, int] = {}  # how often something was excused, by kind
        self._tallies: dict[tuple[str, str, str, str], _Tally] = {}
        self._mismatches: dict[tuple[str, str, str, str, str], Mismatch] = {}
        self._votes: dict[tuple[str, str, str, str], _Vote] = {}
        self._evidence: dict[tuple[str, str], set[str]] = {}
        self.unsteady: set[tuple[str, str, str]] = (
            set()
        )  # (mode, quantity, name) in which the original differs from itself
        self._kinks: dict[tuple[str, str, str, str], list[tuple[Finding, Case]]] = {}
        self._continuous: dict[tuple[str, str, str, str], _Vote] = {}

    @property
    def excused(self) -> frozenset[str]:
        """The kinds of difference that are warnings."""
        if not self.strict:
            return WARNINGS_OF_OTHERS
        return frozenset({"leak"}) if self.rounded else frozenset()

    def record(self, stage: str, quantity: str, name: str, mode: str, dtype: str, case: Case, finding: Finding) -> None:
        """Count a finding; in the precision stage a difference is a vote, elsewhere it is a mismatch at once."""
        self._tallies.setdefault((stage, quantity, mode, dtype), _Tally()).add(name, finding)
        self.book.add(stage, quantity, name, mode, dtype, finding)
        self._evidence.setdefault((quantity, name), set()).add(finding.outcome if finding.agrees else "failed")
        sure = finding.certain or finding.outcome in ("dtype", "shape", "integer")
        if stage == "precision" and not sure:
            vote = self._votes.setdefault((quantity, name, mode, dtype), _Vote())
            vote.examples += finding.outcome not in ("vacuous", "inconclusive")
            if not finding.agrees:
                vote.failing.append((finding, case))
            return
        if case.distribution in CONTINUOUS and stage == "structure":
            vote = self._continuous.setdefault((quantity, name, mode, dtype), _Vote())
            vote.examples += 1
            if finding.outcome == "kink":
                vote.failing.append((finding, case))
        if finding.outcome == "kink" and self.strict:
            self._kinks.setdefault((quantity, name, mode, dtype), []).append((finding, case))
        elif not finding.agrees:
            self._merge(_mismatch(quantity, name, mode, dtype, case, finding))

    def steadied(self, finding: Finding, quantity: str, name: str, mode: str) -> Finding:
        """The finding, or an inconclusive one where the original's own answer to the same question varies."""
        if finding.agrees or finding.outcome in ("shape", "dtype") or (mode, quantity, name) not in self.unsteady:
            return finding
        return replace(finding, outcome="inconclusive", message="the original differs from itself here")

    def reject(
        self, kind: str, quantity: str, name: str, message: str, mode: str = "", case: Case | None = None
    ) -> None:
        """A mismatch that is no comparison of arrays."""
        self._merge(Mismatch(kind, quantity, name, mode, message=message, case=case))

    def warn(self, text: str) -> None:
        """Something to know that is no mismatch; said once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def settle(self) -> None:
        """Count the votes: a precision difference rejects with at least two examples and more than a tenth of them; a
        difference that was taken for a kink rejects with two and more than half of those whose distribution has no
        ties. Where kinks are failures two examples are needed, one of them not of a `SYMMETRIC` distribution."""
        for (quantity, name, mode, dtype), vote in self._votes.items():
            if len(vote.failing) < VOTE_EXAMPLES or len(vote.failing) <= VOTE_SHARE * vote.examples:
                continue
            for finding, case in vote.failing:
                self._merge(_mismatch(quantity, name, mode, dtype, case, finding))
        for (quantity, name, mode, dtype), vote in self._continuous.items():
            if len(vote.failing) >= VOTE_EXAMPLES and len(vote.failing) > KINK_SHARE * vote.examples:
                finding, case = vote.failing[0]
                message = f"no kink: in {len(vote.failing)} of {vote.examples} examples without ties"
                self._put(_mismatch(quantity, name, mode, dtype, case, replace(finding, message=message)))
        for (quantity, name, mode, dtype), kinks in self._kinks.items():
            if len(kinks) >= VOTE_EXAMPLES and any(case.distribution not in SYMMETRIC for _, case in kinks):
                for finding, case in kinks:
                    self._put(_mismatch(quantity, name, mode, dtype, case, finding))
            else:
                self.kinds["kink"] = self.kinds.get("kink", 0) + len(kinks)
                self.warn(f"{quantity} {name}: kink in {len(kinks)} example(s) ({mode}): too few to reject")
        self._kinks.clear()
        self._votes.clear()
        self._continuous.clear()

    def evidence(self, quantity: str) -> Mapping[str, set[str]]:
        """Name -> outcomes seen ("equal", "failed", "vacuous", "inconclusive")."""
        return {name: outcomes for (q, name), outcomes in self._evidence.items() if q == quantity}

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """Signature first, then outputs, then the rest; the largest differences first."""
        order = {"signature": 0, "output": 1, "buffer": 2}
        return tuple(
            sorted(
                self._mismatches.values(),
                key=lambda m: (order.get(m.quantity, 3), -m.error / m.scale if m.scale else 0.0),
            )
        )

    @property
    def checks(self) -> tuple[Check, ...]:
        """One per stage, quantity, mode and dtype."""
        checks = []
        for (stage, quantity, mode, dtype), tally in self._tallies.items():
            ratio = statistics.median(tally.ratios) if tally.ratios else None
            total = sum(tally.counts.values())
            checks.append(Check(stage, quantity, mode, dtype, total, **tally.counts, names=len(tally.names),
                                worst=tally.worst, tolerance=tally.tolerance, ratio=ratio))  # fmt: skip
        return tuple(checks)

    def conclusive(self) -> int:
        """How many arrays were compared with a result that means something."""
        return sum(check.equal + check.failed for check in self.checks)

    def _merge(self, mismatch: Mismatch) -> None:
        if mismatch.kind in self.excused:
            self.kinds[mismatch.kind] = self.kinds.get(mismatch.kind, 0) + 1
            self.warn(f"{mismatch.quantity} {mismatch.name}: {mismatch.kind} ({mismatch.mode})")
            return
        self._put(mismatch)

    def _put(self, mismatch: Mismatch) -> None:
        key = (mismatch.kind, mismatch.quantity, mismatch.name, mismatch.mode, mismatch.dtype)
        known = self._mismatches.get(key)
        if known is None:
            self._mismatches[key] = mismatch
        else:
            worst = mismatch if mismatch.error > known.error else known
            self._mismatches[key] = replace(worst, examples=known.examples + 1)


def _mismatch(quantity: str, name: str, mode: str, dtype: str, case: Case, finding: Finding) -> Mismatch:
    numbers: dict[str, Any] = {
        field: getattr(finding, field)
        for field in ("message", "error", "tolerance", "scale", "position", "expected", "got", "failing", "elements")
    }
    return Mismatch(finding.outcome, quantity, name, mode, dtype, case=case, **numbers)
