"""The few numbers of a result that fit into a line, from `Result.to_dict()` as it comes from any process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Figures", "figures"]


@dataclass(frozen=True)
class Figures:
    """compared: arrays. worst, tolerance: of the check in which the error is nearest to what is allowed, relative to
    scale. ratio: the largest error of the converted model in units of the original's own. None: nothing of the kind."""

    compared: int = 0
    examples: int = 0
    worst: float | None = None
    tolerance: float | None = None
    ratio: float | None = None
    seed: int | None = None


def figures(result: Mapping[str, Any]) -> Figures:
    """What a result's verdict comes to; nothing where none was reached."""
    verdict = result.get("verdict")
    if verdict is None:
        return Figures()
    checks = [check for check in verdict["checks"] if check["compared"]]
    nearest = max(checks, key=_share, default=None)
    ratios = [float(check["ratio"]) for check in checks if check["ratio"] is not None]
    return Figures(
        sum(int(check["compared"]) for check in checks),
        len(verdict["coverage"].get("cases", ())),
        None if nearest is None else float(nearest["worst"]),
        None if nearest is None else float(nearest["tolerance"]),
        max(ratios, default=None),
        verdict["seed"],
    )


def _share(check: Mapping[str, Any]) -> float:
    worst, tolerance = float(check["worst"]), float(check["tolerance"])  # "nan" and "inf" are texts in JSON
    if math.isnan(worst):
        return math.inf
    return worst / tolerance if tolerance else math.inf if worst else 0.0
