"""The layers of nn_layers.py against torch's modules: statistics over several steps, dropout, reloading, no XLA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from isomorph.convert.api import to_keras
from isomorph.convert.conversion import load
from isomorph.convert.nn_layers import BatchNormalization, GroupedConv2D, Recurrent

from .harness import rand


def steps(module: nn.Module, layer: Any, arrays: list[torch.Tensor], last: bool = True) -> None:
    """Train-mode calls of both sides; their outputs must agree."""
    for x in arrays:
        with torch.no_grad():
            want = module(x).numpy()
        given = np.moveaxis(x.numpy(), 1, -1)
        got = np.moveaxis(np.asarray(layer(given, training=True)), -1, 1)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_are_torchs(momentum: float | None, affine: bool) -> None:
    module = nn.BatchNorm2d(3, momentum=momentum, affine=affine, eps=1e-3).double().train()
    keep = None if momentum is None else 1 - momentum
    layer = BatchNormalization(momentum=keep, epsilon=1e-3, scale=affine, center=affine, dtype="float64")
    steps(module, layer, [rand(4, 3, 5, 2, seed=i) * (i + 1) + i for i in range(4)])
    np.testing.assert_allclose(np.asarray(layer.moving_mean), module.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(layer.moving_variance), module.running_var.numpy(), rtol=1e-12)
    assert int(layer.num_batches_tracked) == 4 == int(module.num_batches_tracked)


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 4, 5, 2)])
def test_the_fused_kernel_agrees(shape: tuple[int, ...]) -> None:
    """float32 takes another way on TensorFlow: same values, gradients and statistics as float64."""
    tf = pytest.importorskip("tensorflow")
    x = np.moveaxis(rand(*shape).numpy() * 2 + 1, 1, -1)
    found = []
    for dtype in ("float32", "float64"):
        layer = BatchNormalization(epsilon=1e-5, dtype=dtype)
        layer.build(x.shape)
        layer.gamma.assign(np.array([0.5, 2.0, -1.0]))
        given = tf.constant(x, dtype)
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = layer(given, training=True)
            loss = tf.reduce_sum(tf.sin(y) * tf.cast(x, dtype))
        wanted = [given, layer.gamma.value, layer.beta.value]
        found.append([y, layer.moving_mean.value, layer.moving_variance.value, *tape.gradient(loss, wanted)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-4, atol=2e-4)


def test_trainable_false_freezes_the_affine_part_only() -> None:
    layer = BatchNormalization(dtype="float64", trainable=False)
    layer(rand(4, 3).numpy(), training=True)
    assert not layer.trainable_variables
    assert np.any(np.asarray(layer.moving_mean) != 0)


@pytest.mark.parametrize("fixed", ["moving", "batch"])
def test_statistics_that_ignore_the_mode(fixed: str) -> None:
    layer = BatchNormalization(dtype="float64", statistics=fixed)
    x = rand(6, 3).numpy() + 2
    train, evaluation = (np.asarray(layer(x, training=t)) for t in (True, False))
    np.testing.assert_array_equal(train, evaluation)
    assert (np.abs(train.mean()) < 1e-12) == (fixed == "batch")


def test_a_converted_batch_norm_trains_like_torch(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).double()
    converted = to_keras(module, (rand(2, 3, 6, 6),))
    module.train()
    for i in range(3):
        x = rand(5, 3, 6, 6, seed=i)
        with torch.no_grad():
            want = module(x)
        got = converted.model(converted.inputs[0].to_keras(x.numpy()), training=True)
        np.testing.assert_allclose(converted.outputs[0].to_torch(np.asarray(got)), want.numpy(), rtol=1e-9, atol=1e-12)
    found, state = converted.pull(), module.state_dict()
    assert set(found) == set(state)
    for name, value in state.items():
        np.testing.assert_allclose(np.asarray(found[name]), value.numpy(), rtol=1e-11, err_msg=name)
    converted.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras").pull()
    assert all(np.array_equal(np.asarray(again[n]), np.asarray(found[n])) for n in found)


def test_recurrent_dropout_lies_between_the_layers() -> None:
    module = nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.5).double().train()
    x = rand(2, 5, 3)
    layer = Recurrent("lstm", 4, num_layers=2, batch_first=True, dropout=0.5, seed=1, dtype="float64")
    layer.build((2, 5, 3))
    for name, p in module.named_parameters():
        getattr(layer, name).assign(p.detach().numpy())
    keep = np.random.default_rng(0).integers(0, 2, (5, 2, 4)).astype(float)
    layer.replay = [keep]
    got = np.asarray(layer(x.numpy(), training=True)[0])
    with torch.no_grad():
        first, second = nn.LSTM(3, 4, batch_first=True).double(), nn.LSTM(4, 4, batch_first=True).double()
        for name, p in module.named_parameters():
            setattr(first if "l0" in name else second, name.replace("l1", "l0"), p)
        want = second(first(x)[0] * torch.from_numpy(keep).transpose(0, 1) * 2)[0].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-10)
    layer.replay = None
    a, b = (np.asarray(layer(x.numpy(), training=True)[0]) for _ in range(2))
    assert np.any(a != b), "each call draws anew"
    np.testing.assert_array_equal(*(np.asarray(layer(x.numpy(), training=False)[0]) for _ in range(2)))


def test_recurrent_reloads_by_torchs_names(tmp_path: Path) -> None:
    inputs = keras.Input((None, 3), dtype="float64")
    y = Recurrent("gru", 4, bidirectional=True, batch_first=True, dtype="float64", name="gru")(inputs)[0]
    model = keras.Model(inputs, y)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    x = rand(2, 5, 3).numpy()
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))
    assert [v.name for v in again.get_layer("gru").variables] == [
        n for n, _ in nn.GRU(3, 4, bidirectional=True).named_parameters()
    ]


def test_grouped_convolution_needs_no_xla() -> None:
    tf = pytest.importorskip("tensorflow")
    layer = GroupedConv2D(6, 3, groups=2)
    layer.build((None, 5, 5, 4))
    traced = tf.function(layer).get_concrete_function(tf.TensorSpec((None, 5, 5, 4)))
    graph = traced.graph.as_graph_def(add_shapes=False)
    assert not any(f.attr["_XlaMustCompile"].b for f in graph.library.function)
    assert [n.op for n in graph.node].count("Conv2D") == 2
