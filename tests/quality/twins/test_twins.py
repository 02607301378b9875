"""Honest pairs pass: a few seeds of each. `scripts/false_alarms` runs them over a thousand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import isomorph
from tests.quality.twins.nets import ill_conditioned
from tests.quality.twins.pairs import PAIRS

SEEDS = 2
marks = {name: () if twins.fast else (pytest.mark.slow,) for name, twins in PAIRS.items()}


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in PAIRS])
def test_an_honest_pair_passes(name: str) -> None:
    twins = PAIRS[name]
    for seed in range(SEEDS if twins.fast else 1):
        original, twin, inputs = twins.make(seed)
        verdict = isomorph.check(original, twin, inputs, seed=seed, **twins.options)
        assert verdict.status == "PASS", f"seed {seed}\n{verdict.summary()}"


def differs(name: str) -> bool:
    """Whether the two programs give other bits anywhere: in outputs or gradients."""
    original, twin, inputs = PAIRS[name].make(0)
    found = []
    for model in (original, twin):
        state = torch.random.get_rng_state()
        given = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        result = model(*given)
        outputs = result if isinstance(result, tuple) else (result,)
        outputs[0].float().square().sum().backward()
        torch.random.set_rng_state(state)
        found.append([*(y.detach() for y in outputs), *(p.grad for p in model.parameters() if p.grad is not None)])
    return any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_most_pairs_are_not_the_same_arithmetic() -> None:
    """A pair that gives the same bits on both sides would prove nothing about the verdict."""
    fast = [name for name, twins in PAIRS.items() if twins.fast]
    other = [name for name in fast if differs(name)]
    assert len(other) > 0.6 * len(fast), f"only {len(other)} of {len(fast)} differ in any bit"


def test_fresh_weights_and_inputs_for_each_seed() -> None:
    (left, _, (x,)), (again, _, (y,)), (other, _, (z,)) = (PAIRS["softmax"].make(seed) for seed in (0, 0, 1))
    assert torch.equal(left.body.weight, again.body.weight)
    assert torch.equal(x, y)
    assert not torch.equal(left.body.weight, other.body.weight)
    assert not torch.equal(x, z)


def test_ill_conditioned_matrices_are() -> None:
    singular = np.linalg.svd(ill_conditioned(16, 1e6).double().numpy(), compute_uv=False)
    assert math.log10(singular[0] / singular[-1]) == pytest.approx(6, abs=0.2)
