"""A failure explained: its example made small, the module where the models part, and what is likely wrong there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isomorph.parity.drawing.engine import minimal
from isomorph.parity.drawing.shrink import shrink_arrays
from isomorph.parity.explaining.locate import locate
from isomorph.parity.explaining.summary import summary
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.settings import Settings
from isomorph.parity.stages import Example, compare_at_precision, compare_in_float64
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case, Counterexample, Located

__all__ = ["Explanation", "Found", "explain"]


@dataclass(frozen=True)
class Found:
    """A case on which the models differ. key: (kind, quantity, name) of the difference. runs: spent on shrinking it."""

    mode: str
    case: Case
    key: tuple[str, str, str]
    runs: int = 0


@dataclass(frozen=True)
class Explanation:
    """What is said about a failure."""

    counterexample: Counterexample | None
    located: tuple[Located, ...]


def explain(
    pair: Pair, exact: bool, found: Found | None, ledger: Ledger, settings: Settings, deadline: float | None = None
) -> Explanation | None:
    """Shrink the values of the example that was found and locate the difference.

    found: from the exploration, its case already minimal; None takes the first mismatch that has a case. exact: judge
    in float64. A mismatch of the signature alone has no example; it is located by the name of its parameter.
    """
    found = found or _smaller(pair, exact, _first(ledger), settings, deadline)
    if found is None:
        return _by_name(pair, ledger)
    mode, case = found.mode, found.case
    example = pair.example(mode, case)
    if example is None:
        return None
    names = tuple(spec.name for spec in pair.contract.inputs)
    drawn = arrays = example.request.inputs
    runs = 0
    shown = _fails(pair, exact, example, found.key)
    if shown and case.weights == "own" and found.key[0] not in ("raised", "random"):

        def fails(candidate: tuple[Array, ...]) -> bool:
            again = pair.ask(mode, case, candidate, pair.backward)
            return again is not None and _fails(pair, exact, again, found.key)

        specs = pair.contract.inputs
        arrays, runs = shrink_arrays(arrays, fails, settings.how.shrink, specs=specs, deadline=deadline)
        example = pair.ask(mode, case, arrays, pair.backward) or example
    counterexample = Counterexample(
        *found.key, mode, example.case, dict(zip(names, map(summary, arrays), strict=True)),
        shrunk=not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(arrays, drawn, strict=True)),
        runs=found.runs + runs, arrays=arrays, cotangents=example.request.cotangents or (),
    )  # fmt: skip
    located = () if found.key[0] in ("raised", "random") else locate(pair, example)
    return Explanation(counterexample, located)


def _first(ledger: Ledger) -> Found | None:
    for mismatch in ledger.mismatches:
        if mismatch.case is not None and mismatch.mode:
            return Found(mismatch.mode, mismatch.case, (mismatch.kind, mismatch.quantity, mismatch.name))
    return None


def _smaller(pair: Pair, exact: bool, found: Found | None, settings: Settings, deadline: float | None) -> Found | None:
    """A case that was found by a vote, or by a later stage, made small where one example alone shows it."""
    if found is None or found.case.weights != "own":
        return found
    mode, key = found.mode, found.key

    def fails(case: Case) -> bool:
        example = pair.example(mode, case)
        return example is not None and example.case == case and _fails(pair, exact, example, key)

    if not fails(found.case):
        return found
    small = minimal(pair.contract, found.case, fails, runs=settings.how.shrink, deadline=deadline)
    return Found(mode, small.case, key, small.runs + 1)


def _by_name(pair: Pair, ledger: Ledger) -> Explanation | None:
    """A parameter's module, for a mismatch that needs no run to be seen."""
    known = {**pair.original.parameters(), **pair.original.buffers()}
    for mismatch in ledger.mismatches:
        if mismatch.quantity == "signature" and mismatch.name in known:
            module = mismatch.name.rpartition(".")[0]
            cause = f"parameter {mismatch.name}: {mismatch.message}"
            return Explanation(None, (Located("signature", module, "", causes=(cause,)),))
    return None


def _fails(pair: Pair, exact: bool, example: Example, key: tuple[str, str, str]) -> bool:
    """Whether the example shows this very difference."""
    kind, quantity, name = key
    scratch = Ledger(strict=True)
    converted = pair.converted64 if exact else pair.converted
    if converted is None:
        return False
    try:
        outcomes: Mapping[tuple[str, str], str] = (
            compare_in_float64(example, converted, scratch)
            if exact and kind not in ("precision", "imprecise", "dtype")
            else compare_at_precision(example, pair.converted, scratch, {})
        )
    except WorkerError:
        raise
    except Exception:
        return kind == "raised"
    return outcomes.get((quantity, name)) == kind
