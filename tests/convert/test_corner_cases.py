"""Odd but legal modules: what they return, how they are named, what they share and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.errors import UnsupportedError
from tests.convert.nets import assert_same, on_keras, randn, settled


def assert_holds(module: nn.Module, *tensors: Tensor, path: Path, training: bool = True, **options: Any) -> Any:
    """Converted, saved and loaded, it does what torch does, and its state dict is torch's after each call."""
    converted = to_keras(module, tensors, **options)
    for mode in (False, True, True, False) if training else (False,):
        assert_same(converted, module, *tensors, training=mode)
        state = module.state_dict()
        pulled = converted.pull()
        assert pulled.keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(pulled[name], tensor, rtol=1e-12, atol=1e-12)
    converted.save(path / "m.keras")
    assert_same(load(path / "m.keras"), module, *tensors)
    return converted


class Function(nn.Module):
    """A module from a function of (self, *tensors)."""

    def __init__(self, function: Any, **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


# -------------------------------------------------------------------------------------------------------------- outputs
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x,
        lambda m, x: (x, x + 1, x),
        lambda m, x: (y := torch.exp(x), y, y),
        lambda m, x: (m.w, x + m.w),
        lambda m, x: {"a": [x * m.w, (m.b, None)], "c": x.sum()},
        lambda m, x: (x + m.w, 3, None, "text", 2.5, True),
        lambda m, x: (x.argmax(1), x > 0, x.sum().reshape(())),
        lambda m, x: (m.b + 1, x),
        lambda m, x: (x[:0], x * m.w),
    ],
    ids=["input", "input twice", "same thrice", "parameter", "nested", "constants", "dtypes", "no input read", "empty"],
)
def test_outputs(function: Any, tmp_path: Path) -> None:
    module = settled(Function(function, w=nn.Parameter(torch.ones(3)), b=torch.arange(3.0)))
    assert_holds(module, randn(2, 3), path=tmp_path)


def test_constants_among_the_outputs_are_kept() -> None:
    module = Function(lambda m, x: {"y": x + 1, "n": 3, "none": None, "size": x.shape[0]})
    converted = to_keras(module, (randn(2, 3),))
    assert converted.output_structure == {"y": 0, "n": 1, "none": 2, "size": 3}
    assert converted.output_constants == {1: 3, 2: None, 3: "b"}


def test_inputs_that_nobody_reads(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, unused: Tensor, flag: bool, mask: Tensor | None = None) -> Tensor:
            return x * 2 if flag else x

    x = randn(2, 3)
    converted = to_keras(Net(), (x, torch.arange(4), True), {"mask": None})
    assert [p.name for p in converted.inputs] == ["x", "unused"]
    np.testing.assert_allclose(on_keras(converted, x, torch.arange(4))[0], x * 2)
    with pytest.raises(UnsupportedError, match="no tensor input"):
        to_keras(Function(lambda m, x: m.b * 2, b=torch.ones(2)), (3,))


# ---------------------------------------------------------------------------------------------------------------- names
class Named(nn.Module):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({n: nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for n in names})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


@pytest.mark.parametrize(
    "names",
    [
        ["x", "input", "input_0", "model"],
        ["a b", "naïve", "a/b", "ab"],
        ["A", "a"],
        ["kernel", "layer_1", "training_", "reshape"],
    ],
    ids=str,
)
def test_names_that_clash_or_are_no_identifiers(names: list[str], tmp_path: Path) -> None:
    assert_holds(settled(Named(names)), randn(2, 3), path=tmp_path, training=False)


def test_inputs_named_like_keras_arguments(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, training: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
            return training + mask * inputs

    converted = to_keras(Net(), (randn(2, 3), randn(2, 3), randn(2, 3)))
    assert [p.name for p in converted.inputs] == ["training", "mask", "inputs"]
    assert_same(converted, Net(), randn(2, 3), randn(2, 3, seed=1), randn(2, 3, seed=2))
    converted.save(tmp_path / "m.keras")
    assert_same(load(tmp_path / "m.keras"), Net(), randn(2, 3), randn(2, 3, seed=1), randn(2, 3, seed=2))


# ------------------------------------------------------------------------------------------------------- sharing, state
class Counter(nn.Module):
    """Counts its calls; called twice in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = torch.tanh(self.fc(x))
        if self.training:
            self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return y - self.mean + self.calls


class CountedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    def forward(self, x: Tensor) -> Tensor:
        return self.counter(self.counter(x))


def test_a_module_that_writes_is_called_twice(tmp_path: Path) -> None:
    module = settled(CountedTwice())
    assert_holds(module, randn(2, 3), path=tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.norm(x) + m.norm.running_mean,
        lambda m, x: (m.norm(x), m.norm.running_var, m.norm.num_batches_tracked),
        lambda m, x: m.norm(m.norm.running_var * x) * m.norm.running_var,
    ],
    ids=["mean after", "returned", "before and after"],
)
def test_statistics_that_are_read_after_their_update(function: Any, tmp_path: Path) -> None:
    module = settled(Function(function, norm=nn.BatchNorm1d(3)))
    assert_holds(module, randn(4, 3), path=tmp_path)


def test_a_weight_is_read_or_returned_beside_its_layer(tmp_path: Path) -> None:
    for function in (lambda m, x: (m.fc(x), m.fc.weight.norm(), m.fc.bias * 2), lambda m, x: (m.fc(x), m.fc.weight)):
        module = settled(Function(function, fc=nn.Linear(3, 3)))
        converted = assert_holds(module, randn(2, 3), path=tmp_path)
        assert len(converted.model.trainable_variables) == 2
        state = {n: t + 1 for n, t in module.state_dict().items()}
        converted.push(state)
        module.load_state_dict(state)
        assert_same(converted, module, randn(2, 3))


def test_a_layer_inside_two_parents(tmp_path: Path) -> None:
    fc = nn.Linear(3, 3)
    module = settled(nn.Sequential(nn.Sequential(fc, nn.Tanh()), nn.Sequential(nn.Tanh(), fc), fc))
    converted = assert_holds(module, randn(2, 3), path=tmp_path)
    assert len(converted.model.trainable_variables) == 2


def test_a_region_without_gradients() -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.exp(x.mean(1, keepdim=True) * m.w)
        return x * scale + x.detach() * m.w

    module, x = settled(Function(function, w=nn.Parameter(torch.tensor([0.5])))), randn(2, 3)
    converted = to_keras(module, (x,))
    assert_same(converted, module, x)
    import tensorflow as tf

    leaf = x.clone().requires_grad_()
    module(leaf).sum().backward()
    xs = tf.constant(x.numpy())
    with tf.GradientTape() as tape:
        tape.watch(xs)
        total = tf.reduce_sum(converted.model(xs))
    entry = next(e for e in converted.weights if e.torch_name == "w")
    by_input, by_weight = tape.gradient(total, [xs, entry.variable.value])
    np.testing.assert_allclose(by_input.numpy(), leaf.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(by_weight.numpy(), module.w.grad.numpy(), rtol=1e-12)


def test_twenty_five_levels_deep(tmp_path: Path) -> None:
    class Level(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.inner = Level(depth - 1) if depth else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.inner(self.fc(x))) + x

    module = settled(Level(25))
    converted = assert_holds(module, randn(2, 2), path=tmp_path, training=False)
    layer: Any = converted.model
    for _ in range(25):
        layer = layer.get_layer("inner")
    assert isinstance(layer, keras.Model) or layer.name == "inner"


def test_an_exported_program_converts(tmp_path: Path) -> None:
    module = settled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU()))
    program = torch.export.export(module, (randn(2, 3),), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False)
    converted = to_keras(program, (randn(2, 3),))
    assert converted.mode == "eval"
    for batch in (1, 5):
        assert_same(converted, module, randn(batch, 3))
    assert converted.pull().keys() == module.state_dict().keys()


# ---------------------------------------------------------------------------------------------------------- free sizes
class Image(nn.Module):
    """Down, up and back to the size of the input, whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.norm(self.down(x)))
        z = nn.functional.interpolate(self.up(y), size=x.shape[2:], mode="bilinear", align_corners=False)
        return z + x, y.flatten(2).transpose(1, 2)


class Sequence(nn.Module):
    """Positions, a causal mask and heads, for any batch and any length."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(32, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        n = x.shape[1]
        x = x + self.positions[:n]
        y, weights = self.attention(x, x, x, attn_mask=torch.triu(torch.ones(n, n, dtype=torch.bool), 1))
        return y, weights, x[:, -1], x[:, ::2]


@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_an_image_of_any_size(layout: str, tmp_path: Path) -> None:
    module = settled(Image())
    converted = to_keras(module, (randn(2, 3, 8, 10),), None, {"x": {0: "b", 2: "h", 3: "w"}}, layout=layout)
    assert converted.inputs[0].dims == ("b", 3, "h", "w")
    assert converted.outputs[0].dims == ("b", 3, "h", "w")
    for shape in ((1, 3, 8, 10), (3, 3, 9, 7), (2, 3, 16, 16)):
        for training in (False, True):
            assert_same(converted, module, randn(*shape), training=training)
    converted.save(tmp_path / "m.keras")
    assert_same(load(tmp_path / "m.keras"), module, randn(2, 3, 5, 12))


def test_a_sequence_of_any_length(tmp_path: Path) -> None:
    module = settled(Sequence())
    converted = to_keras(module, (randn(2, 5, 8),), None, {"x": {0: "b", 1: "s"}})
    converted.save(tmp_path / "m.keras")
    for each in (converted, load(tmp_path / "m.keras")):
        for shape in ((1, 1, 8), (3, 7, 8), (2, 32, 8)):
            assert_same(each, module, randn(*shape))
