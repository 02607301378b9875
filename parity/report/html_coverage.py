"""What was judged and what was not, as texts for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from isomorph.parity.report.html_text import seconds
from isomorph.parity.verdict import Verdict

__all__ = ["coverage_facts", "headline", "timings"]

SHOWN = 200  # names in a list
LABELS = ("not judged", "not checked", "warning", "reason")


def headline(verdict: Verdict) -> list[tuple[str, str, str]]:
    """(kind, label, text) of the lines of `Verdict.summary` that say what was compared and what was not; the label
    stands before the first line of its kind only."""
    whole = replace(verdict, mismatches=(), counterexample=None, located=())  # the page shows these in full
    first, *lines = whole.summary().splitlines()
    found = [("compared", first.partition(": ")[2].removeprefix("compared "))]
    for line in lines:
        label, mark, text = line.partition(": ")
        found.append((label, text) if mark and label in LABELS else ("measured", line))
    labels = [label for label, _ in found]
    return [(label, "" if label in labels[:at] else label, text) for at, (label, text) in enumerate(found)]


def coverage_facts(coverage: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(what, in short, the names): each a line of the page, its names folded away."""
    found = [*_examples(coverage), *_parameters(coverage.get("parameters", {}))]
    for key, noun in (("untested_inputs", "inputs untested"), ("chaotic", "too ill-conditioned to judge")):
        found += _list(noun, coverage.get(key, ()))
    modules = coverage.get("modules", {})
    if modules.get("ran") is not None:
        found.append(("modules that ran", str(len(modules["ran"])), []))
    found += _list("modules that never ran", modules.get("never", ()))
    buffers = coverage.get("buffers", {})
    found += _list("buffers compared", buffers.get("compared", ()))
    found += _list("buffers without a counterpart", buffers.get("absent", ()))
    left = coverage.get("evidence_left_out", 0)
    found += [("arrays not listed one by one", str(left), [])] if left else []
    found += _teeth(coverage.get("teeth", ()))
    relations = coverage.get("relations", {}).get("held", {})
    found += _list("relations that hold", [relation for relation, names in relations.items() if names])
    found += _list("let pass", [f"{name}: {_text(said)}" for name, said in coverage.get("excused", {}).items()])
    found += _list("examples refused by a model", coverage.get("refused", ()))
    return found


def timings(said: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(stage, duration, share of the longest in percent), in the order they were run."""
    longest = max([*map(float, said.values()), 1e-9])
    return [(stage, seconds(float(took)), f"{100 * float(took) / longest:.1f}") for stage, took in said.items()]


def _examples(coverage: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    cases = coverage.get("cases", ())
    if not cases:
        return []
    modes = Counter(item["mode"] for item in cases)
    kinds = Counter(item["case"]["distribution"] for item in cases)
    short = ", ".join(f"{number} in {mode} mode" for mode, number in modes.items())
    found: list[tuple[str, str, list[str]]] = [("examples", short, [])]
    found += [("drawn from", ", ".join(f"{k} {n}" for k, n in kinds.items()), [])]
    dims = coverage.get("dims", {})
    found += [(f"sizes of axis {name}", ", ".join(map(str, sizes)), []) for name, sizes in dims.items()]
    return found


def _parameters(said: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    labels = {
        "compared": "gradients compared", "untested": "parameters untested", "frozen": "parameters frozen",
        "chaotic": "parameters too ill-conditioned", "tied": "parameters tied",
    }  # fmt: skip
    return [line for key, label in labels.items() for line in _list(label, said.get(key, ()))]


def _teeth(teeth: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, list[str]]]:
    every = list(teeth)
    if not every:
        return []
    caught = sum(bool(tooth.get("caught")) for tooth in every)
    names = [_text(tooth.get("parameter") or "the inputs") for tooth in every]
    return [("planted errors noticed", f"{caught} of {len(every)}", names)]


def _list(label: str, names: Iterable[Any]) -> list[tuple[str, str, list[str]]]:
    every = [_text(name) for name in names]
    if not every:
        return []
    more = [f"and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return [(label, str(len(every)), every[:SHOWN] + more)]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
