"""Whether a float64 twin computes in float64 throughout. numpy only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isomorph.parity.runners.base import Perturbation, Request, Runner
from isomorph.parity.tolerance import Array, rms

__all__ = ["rounds_inside"]

STEP = 1e-8  # below float32's rounding, far above float64's
STRAIGHT = 0.02  # a smooth function is straighter over two such steps by orders of magnitude


def rounds_inside(twin: Runner, example: tuple[Array, ...]) -> bool:
    """Whether a float64 twin rounds to float32 on its way, as ops do that have no float64 (TensorFlow's resize).

    Where it does, two steps of the inputs (of the parameters, where no input is a float) that are smaller than
    float32's rounding do not move the outputs twice as far as one. A model that refuses the example does not.
    """
    floats = any(array.dtype.kind == "f" for array in example)
    mode = twin.about().modes[0]
    request = Request(example, mode, backward=False, dropout=False)
    steps = [Perturbation(count * STEP, 5, inputs=floats, parameters=not floats) for count in (1, 2)]
    try:
        start, one, two = (twin.respond(replace(request, perturbation=step)).outputs for step in (None, *steps))
    except Exception:  # any exception of a foreign model: the exam tells it
        return False
    return any(_bent(*outputs) for outputs in zip(start, one, two, strict=True))


def _bent(start: Array, one: Array, two: Array) -> bool:
    if start.dtype != np.float64 or not start.shape == one.shape == two.shape:
        return False
    finite = np.isfinite(start) & np.isfinite(one) & np.isfinite(two)
    base, first, second = start[finite], one[finite] - start[finite], two[finite] - start[finite]
    return rms(second - 2 * first) > STRAIGHT * rms(first) + 1e-13 * rms(base)
