"""Does each model give the same answer to the same question twice? numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from isomorph.parity.compare import canonical
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.judging.noise import judge_itself, relative_difference
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import Response
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import ULP, Array

__all__ = ["judge_determinism"]


def judge_determinism(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Ask each side, in its own dtype, the same thing twice, in every mode (random draws replayed).

    coverage["determinism"]: mode -> {"original": differences, "converted": differences}, differences being "quantity
    name" -> the largest difference between the two answers relative to the largest magnitude, {} for bit-identical
    answers. An original that differs from itself sets no standard there but shape and dtype, and a warning says so.
    A converted model that differs from itself by more than rounding, where the original does not, is a mismatch of kind
    "nondeterministic".
    """
    said: dict[str, Any] = coverage.setdefault("determinism", {})
    for mode in (m for m in pair.settings.modes if m in pair.converted.about().modes):
        (case,) = strategies.plan(pair.contract, 1, pair.settings.seed + 41, mode)
        example = pair.example(mode, case)
        if example is None:
            continue
        again = pair.original.respond(example.request)
        own = {label: d for label, _, _, d in _differences(example.response, again)}
        said[mode] = {"original": own}
        for _, quantity, name, _ in _differences(example.response, again):
            pairs = example.response.groups()[quantity][name], again.groups()[quantity].get(name)
            if pairs[1] is None or not judge_itself(example, quantity, name, pairs[0], pairs[1], pair.own_dtype).agrees:
                ledger.unsteady.add((mode, quantity, name))
        if own:
            ledger.warn(
                f"in {mode} mode the original answers the same question in two ways ({_worst(own)}): "
                "there only shape and dtype are judged"
            )
        request = example.request
        if request.draws and not pair.converted.about().replays:
            not_checked(coverage, f"determinism of the converted model in {mode} mode", "its draws are not replayed")
            continue
        try:
            answers = pair.converted.respond(request), pair.converted.respond(request)
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            ledger.reject("raised", "signature", "call", line_of(error), mode, example.case)
            continue
        if own:
            _judge_kind(example.response, answers[0], ledger, mode, example)
        said[mode]["converted"] = {label: d for label, _, _, d in _differences(*answers)}
        _judge(pair, ledger, example, answers, own)


def _judge(
    pair: Pair, ledger: Ledger, example: Example, answers: tuple[Response, Response], own: dict[str, float]
) -> None:
    dtype = pair.own_dtype
    precision = pair.converted.about().precision
    dtype = precision if precision in ULP else dtype
    for label, quantity, name, _ in _differences(*answers):
        if label in own:
            continue
        pairs = answers[0].groups()[quantity][name], answers[1].groups()[quantity][name]
        finding = judge_itself(example, quantity, name, *pairs, dtype)
        if not finding.agrees:
            finding = replace(finding, outcome="nondeterministic", message="two answers to the same question")
            ledger.record("determinism", quantity, name, example.request.mode, dtype, example.case, finding)


def _judge_kind(expected: Response, got: Response, ledger: Ledger, mode: str, example: Example) -> None:
    """Number, shape and dtype of outputs, where the original's values are no standard."""
    if len(expected.outputs) != len(got.outputs):
        return  # a mismatch of structure, found elsewhere
    for index, (left, right) in enumerate(zip(expected.outputs, got.outputs, strict=True)):
        for kind, a, b in (
            ("shape", list(left.shape), list(right.shape)),
            ("dtype", expected.dtypes[index], got.dtypes[index]),
        ):
            if a != b:
                ledger.reject(kind, "output", str(index), f"expected {kind} {a}, got {b}", mode, example.case)


def _differences(first: Response, second: Response) -> Iterator[tuple[str, str, str, float]]:
    """("quantity name", quantity, name, relative difference) of every array that is not bit-identical."""
    there = second.groups()
    for quantity, arrays in first.groups().items():
        for name, array in arrays.items():
            other = there[quantity].get(name)
            if other is None:
                yield f"{quantity} {name}", quantity, name, float("inf")
            elif not _identical(array, other):
                yield f"{quantity} {name}", quantity, name, relative_difference(array, other)


def _identical(left: Array, right: Array) -> bool:
    return left.shape == right.shape and canonical(left).tobytes() == canonical(right).tobytes()


def _worst(found: dict[str, float]) -> str:
    label = max(found, key=lambda key: found[key])
    return f"{label} by {found[label]:.1e}, {len(found)} array(s)"
