"""What happens in train mode: BatchNorm's statistics, dropout, random draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.nn_layers import BatchNormalization
from tests.convert.nets import assert_same, layers_of, on_keras, on_torch, randn, settled

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def assert_statistics(conversion: Any, module: nn.Module) -> None:
    """Every buffer of the state dict is torch's, to 1e-12."""
    pulled = conversion.pull()
    for name, tensor in module.state_dict().items():
        if name.endswith(STATISTICS):
            assert pulled[name].dtype == tensor.dtype
            torch.testing.assert_close(pulled[name], tensor, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


class Net(nn.Module):
    def __init__(self, **norm: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **norm), nn.Linear(4, 3)
        self.norm1 = nn.BatchNorm1d(3, **norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm1(self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "norm",
    [
        {},
        {"momentum": 0.3, "eps": 1e-3},
        {"momentum": None},
        {"momentum": 1.0},
        {"affine": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_running_statistics_are_torchs_after_training_steps(norm: dict[str, Any], steps: int) -> None:
    module = settled(Net(**norm))
    converted = to_keras(module, (randn(4, 2, 6, 6),))
    for step in range(steps):
        assert_same(converted, module, randn(5, 2, 6, 6, seed=step), training=True)
    assert_statistics(converted, module)
    before = converted.pull()
    assert_same(converted, module, randn(3, 2, 6, 6, seed=9))
    assert all(torch.equal(v, before[k]) for k, v in converted.pull().items())  # eval mode writes nothing


def test_statistics_go_on_after_save_and_load(tmp_path: Path) -> None:
    module = settled(Net(momentum=None))
    converted = to_keras(module, (randn(4, 2, 6, 6),))
    assert_same(converted, module, randn(4, 2, 6, 6), training=True)
    converted.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert_same(again, module, randn(4, 2, 6, 6, seed=1), training=True)
    assert_statistics(again, module)


def test_keras_own_batch_norm_on_request(tmp_path: Path) -> None:
    module = settled(Net())
    converted = to_keras(module, (randn(4, 2, 6, 6),), batchnorm="keras")
    norms = layers_of(converted.model, keras.layers.BatchNormalization)
    assert [type(n) for n in norms] == [keras.layers.BatchNormalization] * 2
    assert converted.batchnorm == "keras"
    x = randn(4, 2, 6, 6)
    assert_same(converted, module, x)
    with torch.no_grad():
        inside = module.conv(x)
    mean, var = module.norm.running_mean.clone(), module.norm.running_var.clone()
    on_keras(converted, x, training=True)
    pulled = converted.pull()
    biased = inside.var((0, 2, 3), correction=0)
    torch.testing.assert_close(
        pulled["norm.running_mean"], 0.9 * mean + 0.1 * inside.mean((0, 2, 3)), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(pulled["norm.running_var"], 0.9 * var + 0.1 * biased, rtol=1e-6, atol=1e-6)
    assert pulled.keys() == module.state_dict().keys()
    converted.save(tmp_path / "m.keras")
    keras.models.load_model(tmp_path / "m.keras")


def test_torchs_batch_norm_is_the_default() -> None:
    norms = layers_of(to_keras(settled(Net()), (randn(4, 2, 6, 6),)).model, keras.layers.BatchNormalization)
    assert [type(n) for n in norms] == [BatchNormalization] * 2


def test_a_frozen_batch_norm_inside_a_training_net() -> None:
    """Kept in eval mode while the rest trains, as fine-tuning recipes do."""

    class Frozen(Net):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    module = settled(Frozen())
    module.norm.requires_grad_(False)
    converted = to_keras(module, (randn(4, 2, 6, 6),))
    for step in range(2):
        assert_same(converted, module, randn(4, 2, 6, 6, seed=step), training=True)
    assert_statistics(converted, module)
    assert int(module.norm1.num_batches_tracked) == int(module.norm.num_batches_tracked) + 2
    frozen = {e.torch_name for e in converted.weights if e.kind == "parameter" and not e.trainable}
    assert frozen == {"norm.weight", "norm.bias"}


class Shared(nn.Module):
    """One BatchNorm in two places, each inside a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.b.append(self.a[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


class Again(nn.Module):
    """One BatchNorm called twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.fc(self.norm(x))))


class Pyramid(nn.Module):
    """A block with BatchNorm on two image sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None, None].expand(-1, -1, 4, 4) * torch.arange(1, 5, dtype=x.dtype)
        return self.block(x).mean((2, 3)) + self.block(x[:, :, ::2, ::2]).mean((2, 3))


class HalfFrozen(nn.Module):
    """Gamma is frozen, beta is not: no one Keras layer trains half of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Observed(nn.Module):
    """The running mean is read beside the layer that owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        shift = self.norm.running_mean * 2
        return self.norm(x) + shift


class Uncounted(nn.Module):
    """The functional form moves the statistics and counts no batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        return nn.functional.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, self.training, 0.2)


class Long(nn.Module):
    """An unrolled loop, cut into parts that share one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(100):
            x = self.norm(torch.tanh(self.fc(x)) + x)
        return x


@pytest.mark.parametrize(
    "cls", [Shared, Again, Pyramid, HalfFrozen, Observed, Uncounted, pytest.param(Long, marks=pytest.mark.slow)]
)
def test_statistics_of_a_batch_norm_that_no_one_layer_can_own(cls: type[nn.Module], tmp_path: Path) -> None:
    module = settled(cls())
    converted = to_keras(module, (randn(6, 3),))
    assert_same(converted, module, randn(6, 3))
    for step in range(3):
        assert_same(converted, module, randn(6, 3, seed=step), training=True, tolerance=1e-9)
    assert_statistics(converted, module)
    assert_same(converted, module, randn(6, 3), tolerance=1e-9)
    converted.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert_same(again, module, randn(6, 3, seed=5), training=True)
    assert_statistics(again, module)


# -------------------------------------------------------------------------------------------------------------- dropout
class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc, self.second = nn.Dropout(0.3), nn.Linear(50, 50), nn.Dropout(0.6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.fc(self.first(x)))


def test_dropout_follows_training() -> None:
    module, x = settled(Drops()), randn(40, 50)
    converted = to_keras(module, (x[:2],))
    assert [layer.rate for layer in layers_of(converted.model, keras.layers.Dropout)] == [0.3, 0.6]
    assert_same(converted, module, x)
    (first,), (second,) = (on_keras(converted, x, training=True) for _ in range(2))
    assert not np.array_equal(first, second)
    assert 0.55 < (first == 0).mean() < 0.65
    fitted = converted.model
    fitted.compile("sgd", "mse")
    np.testing.assert_allclose(
        fitted.predict(x.numpy(), verbose=0), on_torch(module, x, training=False)[0], rtol=1e-4, atol=1e-6
    )  # Keras feeds float32


def test_replay_makes_dropout_torchs_own() -> None:
    module, x = settled(Drops()), randn(8, 50)
    converted = to_keras(module, (x,))
    assert [(s.index, s.op) for s in converted.random_sites] == [
        (0, "aten.dropout.default"),
        (1, "aten.dropout.default"),
    ]
    masks = [
        (torch.rand(8, 50, generator=torch.Generator().manual_seed(i)) > p).double() for i, p in enumerate((0.3, 0.6))
    ]
    with torch.no_grad():
        want = module.fc(x * masks[0] / 0.7) * masks[1] / 0.4
    with converted.replay({i: m.numpy() for i, m in enumerate(masks)}):
        (got,) = on_keras(converted, x, training=True)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12)
    (free,) = on_keras(converted, x, training=True)
    assert not np.allclose(free, want.numpy())
    with pytest.raises(KeyError), converted.replay({0: masks[0].numpy()}):
        pass
    assert_same(converted, module, x)


def test_a_module_with_dropout_called_twice_draws_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(30, 30), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(x))

    module, x = settled(Twice()), randn(4, 30)
    converted = to_keras(module, (x,))
    assert [s.index for s in converted.random_sites] == [0, 1]
    masks = [(torch.rand(4, 30, generator=torch.Generator().manual_seed(i)) > 0.5).double() for i in range(2)]
    fc = module.block[0]
    with torch.no_grad():
        want = fc(fc(x) * masks[0] * 2) * masks[1] * 2
    with converted.replay(dict(enumerate(m.numpy() for m in masks))):
        np.testing.assert_allclose(on_keras(converted, x, training=True)[0], want.numpy(), rtol=1e-12)


def test_dropout_in_channels_last_is_replayed_in_torchs_order() -> None:
    module = settled(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Dropout(0.5)))
    x = randn(2, 2, 4, 5)
    converted = to_keras(module, (x,))
    mask = (torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    with torch.no_grad():
        want = module[0](x) * mask * 2
    with converted.replay({0: mask.numpy()}):
        np.testing.assert_allclose(on_keras(converted, x, training=True)[0], want.numpy(), rtol=1e-12)


def test_stochastic_depth_of_a_real_net() -> None:
    fixture = ZOO["efficientnet"]
    module, (x,) = fixture.build().double(), tuple(a.double() for a in fixture.args())
    converted = to_keras(module, (x,))
    assert_same(converted, module, x, tolerance=1e-8)
    (first,), (second,) = (on_keras(converted, x, training=True) for _ in range(2))
    assert not np.array_equal(first, second)
    assert np.isfinite(first).all()


# ---------------------------------------------------------------------------------------------------------- batch sizes
@pytest.mark.parametrize(
    "name", ["resnet_basic", "mobilenet_v3", "gpt", "vit", "lstm", "unet", "swin", "stochastic_depth"]
)
def test_any_batch_size(name: str) -> None:
    fixture = ZOO[name]
    module, (x,) = fixture.build().eval(), fixture.args()
    converted = to_keras(module, (x[:2],), None, fixture.dynamic)
    for batch in (1, 3, 7):
        xs = torch.cat([x] * 7)[:batch]
        xs = xs.flip(0) if batch > 1 else xs
        assert_same(converted, module, xs, tolerance=2e-4)
