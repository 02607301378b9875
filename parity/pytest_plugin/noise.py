"""When is an error larger than it was, and not merely another draw of the same noise? Standard library only, pure.

What is held against a baseline is, for each `Check` of a verdict (stage, quantity, mode, dtype):

share   the error of the worst array over its tolerance. The tolerance holds how ill-conditioned the original is at that
        example, measured (`tolerance.py`), so that the share is steady over seeds where the bare error is not: a batch
        norm over a column that is nearly constant has an error of 1e-9 with one seed and of 1e-15 with the next, and a
        share of 1e-2 and 1e-4. Zero counts as a quarter of an ulp.
ratio   in the precision stage, the median over arrays of the converted model's error in units of the original's own.

The noise is that of the drawn examples and of rounding, which is multiplicative: the model is that the logarithm of a
figure is normal. From n seeds, with m and v the mean and variance of the logarithms,

    s^2   = (4 * (ln p)^2 + (n - 1) v) / (4 + n - 1)           few samples are pulled towards a factor of p
    limit = max(exp(m + 4 s sqrt(1 + 1/n)), 2 * the largest)   a share: at most 1, the tolerance itself

with p = 1.65 for a share, which is of the worst of many arrays, and 1.25 for a ratio, which is a median.

A figure beyond its limit is a suspicion. It counts as such only where the error is also beyond a floor of ulps of the
dtype (256 in float64, where the tolerance starts at 2^17 of them; 4 below): another order of the same sum, as another
version or processor has it. A ratio: beyond 2. A suspicion is a regression where most of the seeds of the baseline,
drawn again with its own settings, are beyond the limit as well: on the same examples, which a heavy tail of the new
seed's cannot explain. An unchanged model on an unchanged machine can so never be called a regression; the price is
that a difference seen with few seeds only is told and not failed.

Measured on a net with batch norm and one with convolutions, two baselines each, held against 30 other seeds: no
regression among 120 runs, 9 suspicions (7 % of the runs were made again). An output off by 1e-12 of itself was a
regression with every seed that was tried, at 370 times the limit and more; the tolerance is another 30 times as wide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure", "Known", "figures_of", "known_from", "suspicions"]

ULP = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
FLOOR_ULPS = {"float64": 256.0}  # others: 4
PRIOR_SPREAD, PRIOR_SEEDS = {"share": math.log(1.65), "ratio": math.log(1.25)}, 4
SIGMAS = 4.0
ROOM = 2.0  # times the largest that was seen
RATIO_FLOOR = 2.0


@dataclass(frozen=True)
class Figure:
    """One figure of one verdict. value: the share or the ratio. error: relative to scale. floor: below that error no
    value is a suspicion (a ratio: below that value)."""

    value: float
    error: float
    floor: float

    @property
    def above_floor(self) -> bool:
        """Whether it is large enough to be looked at."""
        return self.error > self.floor


@dataclass(frozen=True)
class Known:
    """What a baseline knows of a figure. limit: enforced as it stands in the file. typical, spread: geometric mean and
    standard deviation (a factor) over the seeds. error: the largest, relative to scale; of a ratio, the ratio."""

    limit: float
    typical: float
    spread: float
    error: float


def figures_of(verdict: Mapping[str, Any]) -> dict[str, Figure]:
    """What is held against a baseline, by "stage quantity mode dtype share|ratio". verdict: `Verdict.to_dict()`."""
    found: dict[str, Figure] = {}
    for check in verdict.get("checks", ()):
        key = f"{check['stage']}, {check['quantity']}, {check['mode']}, {check['dtype']}"
        worst, tolerance, ratio = check["worst"], check["tolerance"], check["ratio"]
        if not check["equal"] + check["failed"]:
            continue
        if _finite(worst) and _finite(tolerance) and tolerance > 0:
            ulp = ULP.get(check["dtype"], 0.0)
            value = max(worst, ulp / 4) / tolerance
            found[f"{key}, share"] = Figure(value, worst, FLOOR_ULPS.get(check["dtype"], 4.0) * ulp)
        if _finite(ratio):
            found[f"{key}, ratio"] = Figure(max(ratio, 0.25), ratio, RATIO_FLOOR)
    return found


def known_from(kind: str, samples: Sequence[Figure]) -> Known:
    """What one figure's samples, one per seed, allow it to be. kind: "share" or "ratio"."""
    values = [sample.value for sample in samples]
    logs, count = [math.log(value) for value in values], len(values)
    mean = statistics.fmean(logs)
    total = sum((one - mean) ** 2 for one in logs)
    spread = math.sqrt((PRIOR_SEEDS * PRIOR_SPREAD[kind] ** 2 + total) / (PRIOR_SEEDS + count - 1))
    limit = max(math.exp(mean + SIGMAS * spread * math.sqrt(1 + 1 / count)), ROOM * max(values))
    return Known(
        limit=_digits(min(limit, 1.0) if kind == "share" else limit), typical=_digits(math.exp(mean)),
        spread=_digits(math.exp(spread)), error=_digits(max(sample.error for sample in samples)),
    )  # fmt: skip


def suspicions(figures: Mapping[str, Figure], known: Mapping[str, Known]) -> list[str]:
    """The keys that are beyond what is known of them, the farthest first. One that is not known is none."""
    beyond = {
        key: figure.value / known[key].limit
        for key, figure in figures.items()
        if key in known and figure.above_floor and figure.value > known[key].limit
    }
    return sorted(beyond, key=lambda key: (-beyond[key], key))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _digits(value: float) -> float:
    """Three significant digits: a file that is reviewed."""
    return float(f"{value:.2e}")
