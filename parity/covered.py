"""What a check covered and what it left out: the `coverage` of a verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isomorph.parity.drawing import strategies
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.base import Request
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.signature import describe_parameters

__all__ = ["covered_by", "covered_of", "modules_that_ran", "not_checked"]

QUANTITIES = ("output", "input gradient", "parameter gradient", "buffer")
REFUSED = 20  # refusals of the original that are listed


def not_checked(coverage: dict[str, Any], what: str, reason: str) -> None:
    """Note in coverage["not_checked"], a list of texts, that something was not judged, and why. Said once."""
    held = coverage.setdefault("not_checked", [])
    text = f"{what}: {reason}"
    if text not in held:
        held.append(text)


def covered_by(ledger: Ledger, cases: Sequence[Mapping[str, Any]], absent: Sequence[str]) -> dict[str, Any]:
    """What the examples covered. cases: {"mode", "case"} of each that was run. absent: buffers without counterpart."""
    sizes: dict[str, set[int]] = {}
    for name, size in (pair for item in cases for pair in item["case"].sizes):
        sizes.setdefault(name, set()).add(size)
    return {
        "modes": list(dict.fromkeys(item["mode"] for item in cases)),
        "cases": list(cases),
        "sizes": [dict(drawn) for drawn in dict.fromkeys(item["case"].sizes for item in cases)],
        "dims": {name: sorted(found) for name, found in sizes.items()},
        "outputs": _tested(ledger.evidence("output")),
        "inputs": _tested(ledger.evidence("input gradient")),
        "untested_inputs": [n for n, seen in ledger.evidence("input gradient").items() if seen == {"vacuous"}],
        "buffers": {"compared": sorted(ledger.evidence("buffer")), "absent": list(absent)},
        "chaotic": [
            f"{quantity} {name}"
            for quantity in QUANTITIES
            for name, seen in ledger.evidence(quantity).items()
            if "inconclusive" in seen and not seen & {"equal", "failed"}
        ],
        "excused": dict(ledger.kinds),
        "warnings": list(ledger.warnings),
    }


def covered_of(pair: Pair, ledger: Ledger) -> dict[str, Any]:
    """What became of each parameter, and what the original refused."""
    return {
        "own_dtype": pair.own_dtype,
        "parameters": describe_parameters(pair.original, ledger.evidence("parameter gradient"), pair.backward),
        "refused": pair.refused[:REFUSED],
        "no_gradient": dict(pair.no_gradient),
    }


def modules_that_ran(pair: Pair, cases: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{"ran": paths of the original's modules that were called, "never": those that hold parameters and were not}, over
    one example of each mode; empty where the original has no inside."""
    ran: set[str] = set()
    for mode in dict.fromkeys(item["mode"] for item in cases):
        case = next(item["case"] for item in cases if item["mode"] == mode)
        request = Request(strategies.materialise(pair.contract, case), mode, False, case.seed)
        try:
            ran |= {call.path for call in pair.original.trace(request)}
        except WorkerError:
            raise
        except Exception:  # a module that does not bear to be watched
            return {}
    owners = {name.rpartition(".")[0] for name in pair.original.parameters()}
    return {"ran": sorted(ran), "never": sorted(owners - ran)} if ran else {}


def _tested(evidence: Mapping[str, set[str]]) -> list[str]:
    return [name for name, seen in evidence.items() if seen & {"equal", "failed"}]
