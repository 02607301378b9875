"""Weights moved off their values, so that no initial value hides a bug. numpy only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from isomorph.parity.runners.base import ParameterInfo, Runner

__all__ = ["randomise", "randomised"]


def randomise(
    state: Mapping[str, Any], parameters: Mapping[str, ParameterInfo], rng: np.random.Generator
) -> dict[str, Any]:
    """Float parameters times 1 +- 0.3, zeros moved to +- 0.1; running variances log-uniform in [0.01, 10], running
    means normal with deviation 0.5. Tied names stay tied; other buffers and all integers stay as they are."""
    moved: dict[str, Any] = {}
    for name, value in state.items():
        last = name.rpartition(".")[2]
        if value.dtype.kind != "f":
            continue
        if name in parameters:
            tied = parameters[name].tied_to
            factor = 1 + 0.3 * rng.uniform(-1, 1, value.shape)
            moved[name] = (
                moved[tied] if tied else np.where(value == 0, 0.1 * rng.standard_normal(value.shape), value * factor)
            )
        elif last in ("running_var", "moving_variance"):
            moved[name] = 10.0 ** rng.uniform(-2, 1, value.shape)
        elif last in ("running_mean", "moving_mean"):
            moved[name] = 0.5 * rng.standard_normal(value.shape)
    return moved


@contextlib.contextmanager
def randomised(original: Runner, converted: Runner, seed: int) -> Iterator[bool]:
    """While open, both models have the same randomised weights where both hold them. Yields whether there are any."""
    held = converted.state()
    before = {name: array for name, array in original.state().items() if name in held}
    state = randomise(before, original.parameters(), np.random.default_rng([seed, 5]))
    try:
        if state:
            original.load(state)
            converted.load(state)
        yield bool(state)
    finally:
        if state:
            original.load(before)
            converted.load(before)
