"""What a difference at one module is likely to be. An alternative is named only where it reproduces what the converted
model has and the honest value does not; where several do, all are named.

The table of alternatives is in `cause_tests`; what can be said from the numbers alone in `fault`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isomorph.parity.compare import canonical
from isomorph.parity.explaining.fault import Fault, alike, plain_causes
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.tolerance import Array

__all__ = ["Fault", "likely_causes", "lives_of", "made_again", "outcome_with", "parameter_causes"]

NAMED = 4


def lives_of(runner: Runner) -> Any:
    """What the calls of the runner's last trace were made with, in its order; None where it is no torch module of this
    process."""
    if type(runner).__name__ != "TorchRunner":
        return None
    from isomorph.parity.runners.torch_trace import lives_of as lives

    found: Any = runner
    return lives(found)


def outcome_with(runner: Any, request: Request, path: str, call: int, output: Array) -> tuple[Array, ...] | None:
    """The original's outputs if one call of a module gave something else; None where that cannot be."""
    from isomorph.parity.runners.torch_trace import respond_with

    try:
        return respond_with(runner, request, path, call, output).outputs
    except Exception:  # another shape
        return None


def made_again(live: Any, inputs: Sequence[Array]) -> list[Array] | None:
    """What a call of the original gives on other inputs; None where it refuses, or cannot be made again."""
    if live is None:
        return None
    from isomorph.parity.explaining.cause_tests.base import again

    try:
        return again(live, inputs)
    except Exception:  # inputs that it was not made for
        return None


def likely_causes(fault: Fault) -> tuple[str, ...]:
    """One line each, most likely first; empty where nothing reproduces the difference."""
    with np.errstate(all="ignore"):
        return tuple(_causes(fault)[:NAMED])


def _causes(fault: Fault) -> list[str]:
    found: list[str] = []
    if fault.live is not None:
        from isomorph.parity.explaining.cause_tests import families
        from isomorph.parity.explaining.cause_tests.base import causes_of

        families.load()
        found = causes_of(fault, fault.live)
    if not found:
        got, place = fault.observed()
        if got is not None:
            found = list(plain_causes(fault.expected[place], got, fault.inputs, fault.unit))
    return found


def parameter_causes(
    quantity: str, name: str, expected: Array, got: Array, before: Array | None, live: Any, inputs: Sequence[Array]
) -> tuple[str, ...]:
    """Of a parameter's gradient, or of a buffer after a run. before: the buffer's value before it."""
    if before is not None:
        return _buffer_causes(name, expected, got, before, live, inputs)
    a, b = canonical(expected), canonical(got)
    if a.dtype.kind == "f" and b.size and not np.any(b):
        return (f"no gradient reaches parameter {name} (zero or missing path)",)
    return plain_causes(expected, got)


def _buffer_causes(
    name: str, expected: Array, got: Array, before: Array, live: Any, inputs: Sequence[Array]
) -> tuple[str, ...]:
    old, new, other = canonical(before), canonical(expected), canonical(got)
    if alike(old, other) and not alike(old, new):
        return (f"buffer {name} is not updated",)
    module = getattr(live, "function", None)
    momentum = getattr(module, "momentum", None)
    if isinstance(momentum, float) and 0.0 < momentum < 1.0 and old.dtype.kind == "f" and old.shape == new.shape:
        found = list(_statistics(old, new, other, momentum, inputs))
        if found:
            return tuple(found)
    return plain_causes(expected, got)


def _statistics(old: Array, new: Array, other: Array, momentum: float, inputs: Sequence[Array]) -> list[str]:
    """A running statistic moves by momentum towards the batch's: another momentum, or another statistic."""
    found = []
    moved = new - old
    share = float(np.vdot(moved, other - old) / max(float(np.vdot(moved, moved)), 1e-300))
    if alike(old + share * moved, other):
        wrong = momentum * share
        swapped = " (swapped: one minus it)" if abs(wrong - (1.0 - momentum)) < 1e-6 else ""
        found.append(f"momentum is {wrong:.6g}, not {momentum:.6g}{swapped}")
    count = inputs[0].size // inputs[0].shape[1] if inputs and inputs[0].ndim > 1 else 0
    batch = old + moved / momentum
    if count > 1:
        if alike((1 - momentum) * old + momentum * batch * (count - 1) / count, other):
            found.append(f"the variance is biased: divided by n = {count}, not n - 1")
        elif alike((1 - momentum) * old + (1 - (1 - momentum)) * batch * count / (count - 1), other):
            found.append(f"the variance is unbiased twice: n = {count}")
        if alike(momentum * old + (1 - momentum) * batch * (count - 1) / count, other):
            found.append(f"momentum is swapped, and the variance is biased (n = {count})")
    return found
