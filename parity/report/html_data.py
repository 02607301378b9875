"""What the page's tree and plots are drawn from: a verdict as compact JSON, in columns, each text once.

A model of 2,000 modules has some 15,000 lines of evidence; in columns, with three digits, they take a tenth of what
`Verdict.to_dict()` takes. `page/model.js` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["embedded"]

FIGURES = ("forward", "forward_floor", "gradient", "gradient_floor")
COUNTS = ("compared", "equal", "failed", "inconclusive", "vacuous")
ERRORS = ("error", "tolerance", "floor", "ratio")
# Above so many lines of evidence, a page in all, only the worst are embedded; the page says how many were left out. A
# model of 2,000 modules has some 20,000, which take about 1 MB.
LINES = 60_000
FEWEST = 2_000  # of each result, however many there are


def embedded(verdict: Mapping[str, Any] | None, results: int = 1) -> str:
    """JSON that may stand inside a script element of any page: no character of markup is left in it.

    results: how many share the page.
    """
    said = {} if verdict is None else compact(verdict, max(FEWEST, LINES // max(1, results)))
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def compact(verdict: Mapping[str, Any], lines: int = LINES) -> dict[str, Any]:
    """The parts of a verdict that are drawn in the browser; empty where it measured none of them. lines: of evidence,
    at most."""
    tree = _Tree()
    for profile in verdict.get("modules", ()):
        tree.profile(profile)
    located = [tree.located(item) for item in verdict.get("located", ())]
    differing = {_array_of(item) for item in verdict.get("mismatches", ())}
    evidence = _evidence(verdict.get("evidence", ()), tree, lines, differing)
    ran = verdict.get("coverage", {}).get("modules", {})
    never = [tree.index(path) for path in ran.get("never", ())]
    for path in ran.get("ran", ()):
        tree.index(path)
    distributions = [
        {**item, "edges": [_short(edge) for edge in item["edges"]]} for item in verdict.get("distributions", ())
    ]
    return {**tree.columns(), "located": located, "never": never, "distributions": distributions, **evidence}


class _Tree:
    """Dotted path -> number, in the order of execution, and what is known of each."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.about: list[dict[str, Any]] = []

    def index(self, path: str, **about: Any) -> int:
        number = self.numbers.setdefault(path, len(self.numbers))
        if number == len(self.about):
            self.about.append({})
        for key, value in about.items():
            self.about[number].setdefault(key, value)
        return number

    def profile(self, said: Mapping[str, Any]) -> None:
        """A module that is called twice keeps the larger figures."""
        number = self.index(said["path"], kind=said["kind"], counterpart=said["counterpart"], measured=True)
        about = self.about[number]
        for key in FIGURES:
            about[key] = max(about.get(key), said[key], key=_rank)
        for name in said.get("parameters", ()):
            about.setdefault("owns", {})[name] = True

    def located(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Where the models part, with the errors that led there."""
        errors = []
        for item in said["modules"]:
            number = self.index(item["path"], kind=item["kind"], counterpart=item["counterpart"])
            errors.append([number, *(_short(item[key]) for key in ("local", "accumulated", "tolerance"))])
        number = self.index(said["module"], kind=said["kind"], counterpart=said["counterpart"])
        return {"direction": said["direction"], "at": number, "errors": errors}

    def columns(self) -> dict[str, Any]:
        """One list per property; `owns` without the module's own path."""
        found: dict[str, Any] = {"paths": list(self.numbers)}
        for key in ("kind", "counterpart"):
            found[key] = [about.get(key, "") for about in self.about]
        for key in FIGURES:
            found[key] = [_short(about.get(key)) for about in self.about]
        found["order"] = [number for number, about in enumerate(self.about) if "measured" in about]
        found["owns"] = [
            [suffix(name, path) for name in about.get("owns", ())]
            for path, about in zip(self.numbers, self.about, strict=True)
        ]
        return found


def suffix(name: str, path: str) -> str:
    """A parameter's name without its module's path, or "=" and the whole name where it does not begin with it."""
    return name[len(path) + 1 :] if path and name.startswith(path + ".") else "=" + name


def _evidence(lines: Iterable[Mapping[str, Any]], tree: _Tree, most: int, differing: set[Any]) -> dict[str, Any]:
    """`groups`: stage, quantity, mode, dtype. `arrays`: name and module. `rows`: a column each, numbers of the two.
    `differs`: whether what failed stands against the model: in the precision stage one example is a vote only."""
    every = list(lines)
    kept = every if len(every) <= most else sorted(every, key=_severity, reverse=True)[:most]
    groups: dict[tuple[str, ...], int] = {}
    arrays: dict[tuple[str, int], int] = {}
    rows: dict[str, list[Any]] = {key: [] for key in ("group", "array", *COUNTS, "differs", *ERRORS)}
    for line in kept:
        group = (line["stage"], line["quantity"], line["mode"], line["dtype"])
        array = (suffix(line["name"], line["module"]), tree.index(line["module"]))
        rows["group"].append(groups.setdefault(group, len(groups)))
        rows["array"].append(arrays.setdefault(array, len(arrays)))
        for key in COUNTS:
            rows[key].append(line[key])
        rows["differs"].append(
            int(line["failed"] > 0 and (line["stage"] != "precision" or _array_of(line) in differing))
        )
        for key in ERRORS:
            rows[key].append(_short(line.get(key)))
    # Most columns of counts hold the same number for long: one number stands for a column of equal ones.
    shrunk = {key: column[0] if column and len(set(map(str, column))) == 1 else column for key, column in rows.items()}
    return {
        "groups": [list(group) for group in groups], "arrays": [list(array) for array in arrays], "rows": shrunk,
        "lines": len(kept), "omitted": len(every) - len(kept),
    }  # fmt: skip


def _array_of(said: Mapping[str, Any]) -> tuple[str, ...]:
    return said["quantity"], said["name"], said["mode"], said["dtype"]


def _severity(line: Mapping[str, Any]) -> tuple[bool, float]:
    tolerance = _rank(line["tolerance"])
    return bool(line["failed"]), _rank(line["error"]) / tolerance if tolerance > 0 else 0.0


def _rank(value: Any) -> float:
    """Orders figures: none first, then numbers, then infinity and not-a-number."""
    if value is None:
        return -1.0
    return float("inf") if isinstance(value, str) else float(value)


def _short(value: Any) -> Any:
    """Three digits. None, and the texts of numbers that are not finite, stay what they are."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
