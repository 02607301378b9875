"""The first stage: do the two models have the same parameters and buffers, before anything is run? Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import ParameterInfo, Runner

__all__ = ["check_signature", "describe_parameters"]


def check_signature(original: Runner, converted: Runner, ledger: Ledger) -> None:
    """Names, shapes, dtypes, trainability and sharing of parameters, and the values both hold, into the ledger.

    A format without gradients folds and renames its parameters as it likes: they are not looked at. Where the
    correspondence was found and not recorded, a parameter without a counterpart is a warning: outputs and the
    gradients of the others decide.
    """
    if not (original.about().gradients and converted.about().gradients):
        return
    expected, got = original.parameters(), converted.parameters()
    missing = ledger.reject if ledger.strict else _warning(ledger)
    for name in sorted(got.keys() - expected.keys()):
        missing("missing", "signature", name, "the original has no such parameter")
    for name, info in expected.items():
        if name not in got:
            missing("missing", "signature", name, "the converted model has no such parameter")
        else:
            _compare(info, got[name], ledger)
    here, there = original.buffers(), converted.buffers()
    for name in here.keys() & there.keys():
        _compare(here[name], there[name], ledger)
    mine, other = original.state(), converted.state()
    for name in mine.keys() & other.keys():
        if mine[name].shape == other[name].shape and not np.array_equal(
            mine[name], other[name], equal_nan=mine[name].dtype.kind == "f"
        ):
            wrong = int(np.sum(mine[name] != other[name]))
            ledger.reject("value", "signature", name, f"holds other values in {wrong} of {mine[name].size} elements")


def _warning(ledger: Ledger) -> Callable[[str, str, str, str], None]:
    return lambda kind, quantity, name, message: ledger.warn(f"{name}: {message}")


def _compare(expected: ParameterInfo, got: ParameterInfo, ledger: Ledger) -> None:
    if expected.shape != got.shape:
        message = f"expected shape {list(expected.shape)}, got {list(got.shape)}"
        ledger.reject("shape", "signature", expected.name, message)
    if expected.dtype != got.dtype:
        message = f"expected dtype {expected.dtype}, got {got.dtype}"
        (ledger.reject if ledger.strict else _warning(ledger))("dtype", "signature", expected.name, message)
    if expected.tied_to != got.tied_to:
        message = f"expected to be tied to {expected.tied_to or 'nothing'}, is tied to {got.tied_to or 'nothing'}"
        ledger.reject("tied", "signature", expected.name, message)
    if expected.trainable != got.trainable:
        words = {True: "trainable", False: "frozen"}
        message = f"{words[expected.trainable]} in the original, {words[got.trainable]} in the converted model"
        ledger.reject("frozen", "signature", expected.name, message)


def describe_parameters(original: Runner, evidence: Mapping[str, set[str]], backward: bool) -> dict[str, Any]:
    """What became of each parameter: compared, untested (zero gradient in every example), frozen, tied, chaotic."""
    described: dict[str, Any] = {"compared": [], "untested": [], "frozen": [], "chaotic": [], "tied": {}}
    for name, info in original.parameters().items():
        if info.tied_to is not None:
            described["tied"][name] = info.tied_to
        elif not info.trainable:
            described["frozen"].append(name)
        elif not backward:
            continue
        else:
            seen = evidence.get(name, set())
            kind = "compared" if seen & {"equal", "failed"} else "chaotic" if "inconclusive" in seen else "untested"
            described[kind].append(name)
    return described
