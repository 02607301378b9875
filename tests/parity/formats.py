"""What every runner must do, whatever format it runs: used by the tests of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from isomorph.parity.runners.base import Request, Response

STEP = 1e-6


def same(left: Response, right: Response) -> bool:
    """Whether two responses are equal to the bit."""
    pairs = [(left.groups(), right.groups())]
    return left.structure == right.structure and all(
        a[quantity].keys() == b[quantity].keys()
        and all(np.array_equal(array, b[quantity][name], equal_nan=True) for name, array in a[quantity].items())
        for a, b in pairs
        for quantity in a
    )


def keeps_protocol(runner: Any, example: tuple[np.ndarray, ...]) -> None:
    """Same request, same answer; the model is left as it was; a state that was loaded is there; names agree."""
    about = runner.about()
    assert len(about.inputs) == len(example)
    before = runner.state()
    assert set(runner.parameters()) | set(runner.buffers()) >= set(before)
    for mode in about.modes:
        request = Request(example, mode, backward=about.gradients, seed=5)
        first = runner.respond(request)
        assert same(first, runner.respond(request))
        assert len(first.outputs) == len(first.dtypes) >= 1
        assert bool(first.input_gradients or first.parameter_gradients) == about.gradients
        assert len(first.cotangents) == len(first.outputs)
        draws = first.draws or None  # a model that does not record draws them again, from the same seed
        again = runner.respond(Request(example, mode, about.gradients, 5, first.cotangents, draws, first.structure))
        assert same(first, again)
    after = runner.state()
    assert all(np.array_equal(array, after[name]) for name, array in before.items())
    floats = {name: array for name, array in before.items() if array.dtype.kind == "f" and array.size}
    if floats:
        runner.load({name: array + 1 for name, array in floats.items()})
        assert all(np.array_equal(runner.state()[name], array + 1) for name, array in floats.items())
        runner.load(floats)
        assert same(first, runner.respond(request))
    runner.close()
    runner.close()


def gradients_are_right(runner: Any, example: tuple[np.ndarray, ...], mode: str, tolerance: float = 1e-7) -> None:
    """In float64: every gradient against central differences along one random direction. Draws no randomness."""
    rng = np.random.default_rng(3)
    inputs = tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in example)
    response = runner.respond(Request(inputs, mode, seed=1))

    def value(arrays: tuple[np.ndarray, ...]) -> float:
        outputs = runner.respond(Request(arrays, mode, backward=False, seed=1)).outputs
        return sum(
            float(np.sum(c * y)) for c, y in zip(response.cotangents, outputs, strict=True) if c is not None
        )  # fmt: skip

    names = [port.name for port in runner.about().inputs]
    for name, gradient in response.input_gradients.items():
        place, direction = names.index(name), rng.standard_normal(gradient.shape)
        moved = [
            (*inputs[:place], inputs[place] + sign * STEP * direction, *inputs[place + 1 :]) for sign in (1, -1)
        ]  # fmt: skip
        slope = (value(moved[0]) - value(moved[1])) / (2 * STEP)
        assert abs(slope - float(np.sum(gradient * direction))) < tolerance * (1 + abs(slope)), name
    state = runner.state()
    for name, gradient in response.parameter_gradients.items():
        direction, slopes = rng.standard_normal(gradient.shape), []
        for sign in (1, -1):
            runner.load({name: state[name] + sign * STEP * direction})
            slopes.append(value(inputs))
        runner.load({name: state[name]})
        slope = (slopes[0] - slopes[1]) / (2 * STEP)
        assert abs(slope - float(np.sum(gradient * direction))) < tolerance * (1 + abs(slope)), name


def largest(left: Response, right: Response) -> float:
    """The largest absolute difference of any two arrays of one name."""
    found = [0.0]
    theirs = right.groups()
    for quantity, arrays in left.groups().items():
        assert arrays.keys() == theirs[quantity].keys(), quantity
        found += [
            float(np.max(np.abs(array.astype(float) - theirs[quantity][name].astype(float))))
            for name, array in arrays.items()
            if array.size
        ]
    return max(found)
