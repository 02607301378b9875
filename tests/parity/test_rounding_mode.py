"""Perturbing what a program computes on the way, and what that tells the verdict."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import compare_precision, compare_structure
from isomorph.parity.modes.rounding_mode import RoundingMode
from isomorph.parity.runners.base import Perturbation, Request
from isomorph.parity.runners.torch_runner import Call, TorchRunner

X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(4, 6)
DELTA = 2.0**-20

EXACT = {
    "relu": F.relu,
    "view": lambda x: x.reshape(6, 4).transpose(0, 1)[1:],
    "cat": lambda x: torch.cat([x, x.flip(0)]),
    "sort": lambda x: x.sort(-1).values,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "max pool": lambda x: F.max_pool1d(x, 2),
    "factory": lambda x: torch.ones(3, dtype=x.dtype),
    "pad": lambda x: F.pad(x, (1, 1)),
    "embedding": lambda x: F.embedding(torch.tensor([1, 2]), x),
    "integers": lambda x: x.argmax(-1),
    "draw": lambda x: torch.zeros(4).bernoulli_(0.5, generator=torch.Generator().manual_seed(0)),
}
ARITHMETIC = {
    "exp": torch.exp,
    "sum": lambda x: x.sum(-1),
    "product": lambda x: x @ x.T,
    "softmax": lambda x: F.softmax(x, -1),
    "in place": lambda x: x.clone().mul_(0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_selections_and_copies_stay_exact(name: str) -> None:
    with RoundingMode(DELTA, 0):
        moved = EXACT[name](X)
    assert torch.equal(moved, EXACT[name](X))


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_moved_by_delta(name: str) -> None:
    plain = ARITHMETIC[name](X)
    with RoundingMode(DELTA, 0):
        moved = ARITHMETIC[name](X)
    relative = (moved - plain).norm() / plain.norm()
    assert DELTA / 8 < relative < 8 * DELTA


def test_running_statistics_are_updated_and_moved_by_delta() -> None:
    """ATen's batch norm updates them in place without saying so: a copy must not take the update."""

    def updated(mode: RoundingMode | None) -> tuple[Tensor, Tensor]:
        mean, variance = torch.zeros(6, dtype=X.dtype), torch.ones(6, dtype=X.dtype)
        with mode or nullcontext():
            F.batch_norm(X.exp(), mean, variance, training=True, momentum=0.5)
        return mean, variance

    for plain, moved in zip(updated(None), updated(RoundingMode(DELTA, 0)), strict=True):
        relative = (moved - plain).norm() / plain.norm()
        assert DELTA / 8 < relative < 8 * DELTA


def test_the_seed_decides_the_signs() -> None:
    def moved(seed: int) -> Tensor:
        with RoundingMode(DELTA, seed):
            return X.exp()

    assert torch.equal(moved(1), moved(1))
    assert not torch.equal(moved(1), moved(2))


def test_the_callers_tensors_are_not_written_to() -> None:
    before = X.clone()
    with RoundingMode(DELTA, 0):
        X.reshape(-1).square().sum()
    assert torch.equal(X, before)


def test_the_backward_pass_is_moved_too() -> None:
    x = X.clone().requires_grad_()
    plain = torch.autograd.grad(F.relu(x * 3.0).sum(), x)[0]
    with RoundingMode(DELTA, 0):
        moved = torch.autograd.grad(F.relu(x * 3.0).sum(), x)[0]
    assert not torch.equal(moved, plain)
    assert torch.allclose(moved, plain, rtol=8 * DELTA)


class Saturated(nn.Module):
    """1 - tanh(x)^2 for large x: rounding inside the kernel decides the gradient, whatever the input's last bit."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_copies_of_one_number_are_moved_apart() -> None:
    """A fused kernel's own rounding: a mean of three equal numbers need not be that number."""
    x = torch.full((1, 3), 700.0, dtype=torch.float64)
    assert not F.layer_norm(x, (3,)).any()
    with RoundingMode(DELTA, 0):
        moved = F.layer_norm(x[:, [0, 0, 0]], (3,))
    assert moved.abs().max() > 0.1 * 700.0 * DELTA / 1e-5**0.5


def test_a_saturated_gradient_is_known_to_be_rounding() -> None:
    """Perturbing the input alone sees a slope 10,000 times too small; the exact 1 / cosh(x)^2 would be rejected."""
    x = torch.full((1, 4), 18.0, dtype=torch.float64)
    runner = TorchRunner(Saturated(), Call((x,)), ("x",))
    request = Request((x.numpy(),), "eval", cotangents=(np.ones((1, 4)),))

    def gradient(perturbation: Perturbation | None) -> np.ndarray:
        response = runner.respond(
            Request(request.inputs, "eval", cotangents=request.cotangents, perturbation=perturbation)
        )
        return response.input_gradients["x"]

    base = gradient(None)
    moved = {
        inside: yardstick.condition(base, [gradient(Perturbation(yardstick.DELTA, s, inside=inside)) for s in range(3)])
        for inside in (False, True)
    }
    assert np.all(moved[True] > 1e4 * moved[False])
    twin = torch.cosh(x).square().reciprocal().numpy()
    assert compare_structure(base, twin, moved[False]).outcome == "value"
    assert compare_structure(base, twin, moved[True]).outcome == "inconclusive"


def test_what_float64_says_is_right_where_the_original_overflows() -> None:
    reference, own = np.array([np.inf, 1.0]), np.array([np.nan, 1.0], np.float32)
    assert compare_precision(reference, own, np.array([np.inf, 1.0], np.float32), "float32").outcome == "equal"
    assert compare_precision(reference, own, np.array([-np.inf, 1.0], np.float32), "float32").outcome == "nonfinite"
    assert compare_precision(reference, own, np.array([3.0, 1.0], np.float32), "float32").outcome == "nonfinite"
