"""What a person reads on the page, as texts and rows for its templates. No markup here, and no arithmetic there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from isomorph.parity.record import EXIT_CODES, BudgetLine, Record, Result
from isomorph.parity.report.html_case import counterexample, located
from isomorph.parity.report.html_coverage import coverage_facts, headline, timings
from isomorph.parity.report.html_text import commands, count, figure, ratio, seconds, size, tone
from isomorph.parity.report.restore import restore

__all__ = ["page_view"]

SHOWN = 100  # mismatches, and names in a list


def page_view(record: Record, folder: Path | None = None) -> dict[str, Any]:
    """Everything the templates say. folder: as in `html.render`."""
    counts = Counter(result.status for result in record.results)
    return {
        "title": record.title or "isomorph",
        "status": record.status,
        "tone": tone(record.status),
        "exit_code": record.exit_code,
        "said": _said(counts, len(record.results)),
        "created": record.created,
        "seconds": seconds(record.seconds),
        "command": record.command,
        "notes": list(record.notes),
        "policy": None if record.policy is None else _rows(record.policy),
        "environment": _rows(record.environment),
        "counts": [(status, tone(status), counts[status]) for status in EXIT_CODES if counts[status]],
        "many": len(record.results) != 1,
        "results": [_result(result, record, index, folder) for index, result in enumerate(record.results)],
    }


def _said(counts: Counter[Any], total: int) -> str:
    if total == 0:
        return "No model was checked: nothing is proven."
    if total == 1:
        return ""
    return f"{counts['PASS']} of {total} results pass."


def _result(result: Result, record: Record, index: int, folder: Path | None) -> dict[str, Any]:
    # As this version has it: what an older one did not say yet takes its default. What is large is drawn elsewhere.
    whole = restore(None if result.verdict is None else {**result.verdict, "evidence": (), "distributions": ()})
    verdict = {} if whole is None else whole.to_dict()
    coverage = verdict.get("coverage", {})
    mismatches = verdict.get("mismatches", ())
    own = {k: v for k, v in verdict.get("environment", {}).items() if record.environment.get(k) != v}
    return {
        "index": index,
        "name": result.name or "(unnamed)",
        "status": result.status,
        "tone": tone(result.status),
        "verdict_status": verdict.get("status", ""),
        "message": result.message,
        # Not where the line below says the same.
        "lead": "" if whole is not None and result.message == whole.summary().splitlines()[0] else result.message,
        "original": result.original,
        "converted": result.converted,
        "device": result.device,
        "cached": result.cached,
        "seconds": seconds(result.seconds),
        "raw_seconds": result.seconds,
        "place": "" if result.place is None else f"{result.place.file}:{result.place.line}",
        "headline": [] if whole is None else headline(whole),
        "facts": coverage_facts(coverage),
        "checks": [_check(check, mismatches) for check in verdict.get("checks", ())],
        "mismatches": [_mismatch(item) for item in mismatches[:SHOWN]],
        "more_mismatches": max(0, len(mismatches) - SHOWN),
        "located": [located(item) for item in verdict.get("located", ())],
        "counterexample": counterexample(verdict.get("counterexample")),
        "budgets": [_budget(line) for line in result.budgets],
        "waived": result.waived,
        "subjects": [(s.role, s.name, s.kind, size(s.size), s.sha256) for s in result.subjects],
        "settings": _rows(result.settings),
        "environment": _rows(own),
        "artifacts": [(name, path, _link(path, folder)) for name, path in result.artifacts.items()],
        "commands": commands(result, record, verdict),
        "timings": timings(coverage.get("timings", {})),
        "parts": _parts(result.verdict or {}),
        "verdict": bool(verdict),
    }


def _parts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(part, heading) of what the page's script draws."""
    ran = verdict.get("coverage", {}).get("modules", {}).get("ran")
    known = verdict.get("modules") or verdict.get("evidence") or verdict.get("located")
    every = (
        ("tree", "Modules", known or ran),
        ("errors", "Error per module", verdict.get("modules")),
        ("distributions", "Distribution of errors", verdict.get("distributions")),
    )
    return [(part, heading) for part, heading, drawn in every if drawn]


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, _plain(found[key])) for key in found if found[key] not in (None, "", [], {})]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return str(value)


def _check(check: Mapping[str, Any], mismatches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    alike = ("quantity", "mode", "dtype")
    against = check["stage"] != "precision" or any(all(m[key] == check[key] for key in alike) for m in mismatches)
    numbers = {key: count(check[key]) for key in ("names", "compared", "equal", "failed", "inconclusive", "vacuous")}
    return {
        **{key: check[key] for key in ("stage", "quantity", "mode", "dtype")},
        **numbers,
        "bad": bool(check["failed"]) and against,  # in the precision stage one example is a vote, no failure
        "worst": figure(check["worst"]),
        "tolerance": figure(check["tolerance"]),
        "ratio": ratio(check["ratio"]),
    }


def _mismatch(item: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {"failing": "", "error": "", "tolerance": "", "at": "", "expected": "", "got": ""}
    if item["elements"]:
        numbers = {
            "failing": f"{count(item['failing'])} of {count(item['elements'])}",
            "error": figure(item["error"]), "tolerance": figure(item["tolerance"]),
            "at": ", ".join(map(str, item["position"])), "expected": figure(item["expected"], 6),
            "got": figure(item["got"], 6),
        }  # fmt: skip
    return {
        **{key: item[key] for key in ("kind", "quantity", "name", "mode", "dtype", "message")},
        **numbers,
        "examples": count(item["examples"]),
    }


def _budget(line: BudgetLine) -> dict[str, Any]:
    def said(value: float | None) -> str:
        if value is None:
            return "not measured"
        return size(value) if line.unit == "bytes" else f"{value:.3g}{'×' if line.unit == 'x' else ' ' + line.unit}"

    share = 0.0 if line.measured is None or line.limit <= 0 else min(1.0, max(0.0, line.measured / line.limit / 2))
    return {
        "name": line.name, "limit": said(line.limit), "measured": said(line.measured), "kept": line.kept,
        "detail": line.detail, "share": f"{100 * share:.1f}",
    }  # fmt: skip


def _link(path: str, folder: Path | None) -> str:
    """Where a link leads, relative to the page; "" where there is nothing."""
    if folder is None or not path or Path(path).is_absolute() or not (folder / path).exists():
        return ""
    return quote(path, safe="/")
