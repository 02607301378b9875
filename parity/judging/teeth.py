"""The self-test: a planted error must be noticed, or the check proves nothing. numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Request, Responder, Response, Runner
from isomorph.parity.stages import Example, compare_at_precision, compare_in_float64
from isomorph.parity.tolerance import Array

__all__ = ["bite"]

TEETH = 3
BITE = 1e-3  # the relative size of the planted error
SHIFTED = 1.0  # that of inputs whose elements are all moved by one place
Outcomes = dict[tuple[str, str], str]


def bite(
    converted: Runner,
    exact: bool,
    probe: Example,
    before: Outcomes,
    tested: list[str],
    seed: int,
    size: float = BITE,
    rounded: bool = False,
) -> list[dict[str, Any]]:
    """Perturb up to three of the tested parameters in the converted model, one by one, and judge `probe` again.

    exact: whether `converted` is the float64 one. probe: an example on which the models agreed, with the outcomes
    `before`: an error is noticed where one that was "equal" is so no more, be it that nothing can be said there, which
    is never a pass, or where an excused "leak" is one no more. tested: parameters that received a gradient comparison;
    without any the converted model is given other inputs instead. rounded: as `Ledger` has it.
    Returns one record per planted error: {"parameter", "relative_size", "caught"}.
    """
    probe.near = None
    if not tested:
        if not any(array.dtype.kind == "f" for array in probe.request.inputs):
            return []
        return [_other_inputs(converted, exact, probe, before, size, rounded)]
    rng = np.random.default_rng([seed, 9])
    state = converted.state()
    found = []
    for name in list(dict.fromkeys([tested[0], tested[-1], str(rng.choice(tested, 1)[0])]))[:TEETH]:
        value = np.asarray(state[name])
        step = size * max(float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) if value.size else 0.0, size)
        try:
            # of different sizes: equal ones of both signs may cancel in a sum
            planted = step * rng.choice([-1.0, 1.0], value.shape) * rng.uniform(0.5, 1.5, value.shape)
            converted.load({name: value + planted.astype(value.dtype)})
            caught = _noticed(probe, converted, exact, before, rounded)
        finally:
            converted.load({name: value})
        found.append({"parameter": name, "relative_size": size, "caught": caught})
    return found


def _other_inputs(
    converted: Runner, exact: bool, probe: Example, before: Outcomes, size: float, rounded: bool
) -> dict[str, Any]:
    """The record of the smallest error in the inputs that is noticed: a thousandth of each element, a hundredth, and
    each element in its neighbour's place (size 1), which is what a wrong padding or order of axes does. What amplifies
    rounding, as a classifier does with noise, hides the smaller ones."""
    for planted in (size, 10 * size, SHIFTED):
        if _noticed(probe, _Bitten(converted, planted), exact, before, rounded):
            return {"parameter": None, "relative_size": planted, "caught": True}
    return {"parameter": None, "relative_size": SHIFTED, "caught": False}


def _noticed(probe: Example, converted: Responder, exact: bool, before: Outcomes, rounded: bool) -> bool:
    judge: Callable[[], Outcomes] = (
        (lambda: compare_in_float64(probe, converted, Ledger(rounded=rounded), retest=False))
        if exact
        else (lambda: compare_at_precision(probe, converted, Ledger(), {}))
    )
    after = judge()
    still = {"equal": {"equal"}, "leak": {"equal", "leak"}}
    return any(after.get(at) not in still[outcome] for at, outcome in before.items() if outcome in still)


class _Bitten:
    """A runner that answers for other inputs than those that it is asked about. size: as in the records."""

    def __init__(self, inner: Responder, size: float) -> None:
        self._inner, self._size = inner, size

    def respond(self, request: Request) -> Response:
        """The inner runner's response to float inputs about a thousandth off, each element by its own: what normalises
        its inputs does not see one factor."""
        rng = np.random.default_rng(9)
        moved = tuple(self._moved(a, rng) if a.dtype.kind == "f" else a for a in request.inputs)
        return self._inner.respond(replace(request, inputs=moved))

    def _moved(self, array: Array, rng: np.random.Generator) -> Array:
        if self._size == SHIFTED:
            return np.roll(array, 1, axis=-1) if array.ndim else array + 1
        parts = self._size * rng.choice([-1.0, 1.0], array.shape) * rng.uniform(0.5, 1.5, array.shape)
        base = array if array.any() else np.ones_like(array)  # a part of nothing is nothing
        return np.asarray(array + base * parts.astype(array.dtype))
