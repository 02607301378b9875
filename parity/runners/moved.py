"""What a model in a framework without perturbations or cotangents of its own needs to be the original of a check.
numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from isomorph.parity.drawing.strategies import round_to
from isomorph.parity.runners.base import Perturbation, Request, Response, Runner
from isomorph.parity.tolerance import Array

__all__ = ["draw_cotangent", "moved_arrays", "respond_moved"]


def respond_moved(runner: Runner, request: Request) -> Response:
    """`runner.respond` with the request's perturbation done in numpy: float inputs, and trainable float parameters by
    `load`. The parameters are put back. A runner calls it for a request that has a perturbation."""
    wanted = request.perturbation
    if wanted is None:
        return runner.respond(request)
    rng = np.random.default_rng([wanted.seed, 41])
    inputs = request.inputs
    if wanted.inputs:
        wide = runner.dtype == "float64"  # there the step is far below float32's rounding
        inputs = tuple(moved(_wide(a) if wide else a, wanted, rng) for a in inputs)
    request = replace(request, inputs=inputs, perturbation=None)
    if not wanted.parameters:
        return runner.respond(request)
    infos = runner.parameters()
    names = {name for name, info in infos.items() if info.trainable and info.tied_to is None}
    before = {name: array for name, array in runner.state().items() if name in names}
    if not before:
        return runner.respond(request)
    try:
        runner.load(moved_arrays(before, wanted, rng))
        return runner.respond(request)
    finally:
        runner.load(before)


def moved_arrays(arrays: Mapping[str, Array], wanted: Perturbation, rng: np.random.Generator) -> dict[str, Array]:
    """Each array moved; those that are no floats as they are."""
    return {name: moved(array, wanted, rng) for name, array in arrays.items()}


def moved(array: Array, wanted: Perturbation, rng: np.random.Generator) -> Array:
    """The array times 1 +- delta, signs from `rng`, in its own dtype; as it is where it is no float."""
    if array.dtype.kind != "f":
        return array
    sign = rng.integers(0, 2, array.shape).astype(array.dtype) * 2 - 1
    return np.asarray(array * (1 + array.dtype.type(wanted.delta) * sign), array.dtype)


def draw_cotangent(seed: int, index: int, shape: Sequence[int], dtype: str) -> Array:
    """The normal cotangent of one output for a request without any, rounded to the model's own dtype."""
    rng = np.random.default_rng([seed, 1000 + index])
    return round_to(np.asarray(rng.standard_normal(tuple(shape))), dtype)


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
