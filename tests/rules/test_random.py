"""Random rules: what is drawn has torch's distribution, is drawn once per op, and can be put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

from isomorph.convert.capture import capture
from isomorph.convert.interpret import interpret
from isomorph.convert.rules.registry import load_rules
from isomorph.convert.support import is_supported

from .harness import Call, rand
from .values import op

N = 20_000
ZEROS = torch.zeros(N, dtype=torch.float64)
WEIGHTS = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)

# Each is called with zeros.
DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bernoulli": lambda x: torch.bernoulli(x + 0.3),
    "bernoulli_p": lambda x: op("bernoulli.p")(x, 0.3),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "rand": lambda x: torch.rand(N, dtype=torch.float64) + x,
    "randn": lambda x: torch.randn(N, dtype=torch.float64) + x,
    "uniform": lambda x: op("uniform.default")(x, -1.0, 3.0),
    "normal": lambda x: op("normal_functional.default")(x, 2.0, 0.5),
    "normal_tensors": lambda x: torch.normal(x + 1, x + 0.5),
    "normal_float": lambda x: torch.normal(1.0, 2.0, (N,), dtype=torch.float64) + x,
    "log_normal": lambda x: op("log_normal.default")(x, 0.1, 0.3),
    "exponential": lambda x: op("exponential.default")(x, 2.0),
    "geometric": lambda x: op("geometric.default")(x, 0.3),
    "cauchy": lambda x: torch.atan(op("cauchy.default")(x, 0.5, 2.0)),
    "randint": lambda x: torch.randint(7, (N,)) + x,
    "randint_low": lambda x: torch.randint(-3, 4, (N,)) + x,
    "randint_like": lambda x: torch.randint_like(x, 5),
    "dropout": lambda x: torch.dropout(x + 1, 0.3, True),
    "alpha_dropout": lambda x: torch.alpha_dropout(x + 1, 0.3, True),
    "feature_dropout": lambda x: torch.feature_dropout((x + 1).reshape(-1, 10, 1), 0.3, True).flatten(),
    "feature_alpha_dropout": lambda x: torch.feature_alpha_dropout((x + 1).reshape(-1, 10, 1), 0.3, True).flatten(),
    "multinomial": lambda x: torch.multinomial(WEIGHTS, N, True) + x,
    "multinomial_without": lambda x: torch.multinomial(WEIGHTS.expand(N // 4, 4), 2).flatten() + 0 * x[: N // 2],
    "rrelu": lambda x: torch.rrelu(x - 1, 0.1, 0.4, True),
}


def run(function: Any, inputs: list[torch.Tensor], draw: Any) -> list[np.ndarray]:
    load_rules()
    module = (function if isinstance(function, nn.Module) else Call(function)).train()
    captured = capture(module, tuple(inputs), {}, {}, training=True, has_rule=is_supported)
    owned = {n: tf.convert_to_tensor(captured.tensors[n].detach().numpy()) for n in captured.graph.parameters}
    xs = [tf.convert_to_tensor(x.numpy()) for x in inputs]
    return [np.asarray(y) for y in interpret(captured.graph, xs, owned, True, draw)]


@pytest.mark.parametrize("name", DRAWS)
def test_distribution(name: str) -> None:
    """Quantiles of our draws lie between torch's at slightly lower and higher levels (five standard errors)."""
    import keras

    torch.manual_seed(0)
    want = np.sort(DRAWS[name](ZEROS).numpy())
    keras.utils.set_random_seed(1)
    seeds = keras.random.SeedGenerator(3)
    got = np.sort(run(DRAWS[name], [ZEROS], lambda node, make: make(seeds))[0])
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    levels, margin = np.linspace(0.02, 0.98, 49), 5 * 0.5 * np.sqrt(2 / want.size)
    low, high = (np.quantile(want, np.clip(levels + m, 0, 1)) for m in (-margin, margin))
    middle = np.quantile(got, levels)
    assert np.all((low - 1e-9 <= middle) & (middle <= high + 1e-9)), list(zip(low, middle, high, strict=True))


def test_draws_differ_between_calls() -> None:
    import keras

    seeds = keras.random.SeedGenerator(3)
    a, b = run(lambda x: (torch.rand_like(x), torch.rand_like(x)), [rand(50)], lambda node, make: make(seeds))
    assert len(np.unique(np.concatenate([a, b]))) == 100


MASK = np.array([[1, 0, 1], [0, 1, 1]], "float64")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: torch.dropout(x, 0.25, True), lambda x: x * MASK / 0.75),
        (lambda x: torch.native_dropout(x, 0.25, True)[0], lambda x: x * MASK / 0.75),
        (lambda x: torch.feature_dropout(x, 0.25, True), lambda x: x * MASK / 0.75),
        (lambda x: torch.bernoulli(torch.sigmoid(x)), lambda x: MASK),
        (lambda x: torch.rand_like(x) + x, lambda x: MASK + x),
        (lambda x: torch.rrelu(x, 0.1, 0.4, True), lambda x: np.where(x > 0, x, x * MASK)),
        (lambda x: torch.randint(5, (2, 3)) + x, lambda x: MASK + x),
    ],
    ids=["dropout", "native_dropout", "feature_dropout", "bernoulli", "rand_like", "rrelu", "randint"],
)
def test_replay(function: Any, expected: Any) -> None:
    """A recorded array takes the place of the one draw the op makes, in torch axis order."""
    drawn = []

    def draw(node: Any, make: Any) -> Any:
        drawn.append(node.op)
        return tf.convert_to_tensor(MASK)

    x = rand(2, 3)
    (y,) = run(function, [x], draw)
    assert len(drawn) == 1
    assert np.allclose(y, expected(x.numpy()), rtol=1e-12, atol=0)


def test_replay_in_torch_axis_order_behind_a_convolution() -> None:
    """The tensor lies channels last there; the mask does not."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)
            self.drop = nn.Dropout(0.25)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.drop(self.conv(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net, x = Net().double(), rand(2, 2, 4, 5)
    mask = (np.random.default_rng(0).random((2, 3, 4, 5)) > 0.25).astype("float64")
    (y,) = run(net, [x], lambda node, make: tf.convert_to_tensor(mask))
    assert np.allclose(y, net.conv(x).detach().numpy() * mask / 0.75, rtol=1e-12)
