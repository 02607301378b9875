"""Keras -> torch -> Keras: the same layers, values, paths and axis orders; batch normalisation stays Keras'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import isomorph
from isomorph.convert.conversion import Conversion
from isomorph.convert.onnx_in import torch_layers
from isomorph.convert.onnx_in.conversion import TorchConversion
from isomorph.convert.onnx_out.trace import variable_names

layers = keras.layers


def cnn() -> Any:
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv1")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn1")(x))
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.BatchNormalization(scale=False, momentum=0.8, name="bn2")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.BatchNormalization(center=False, scale=False, name="bn3")(x)
    x = layers.BatchNormalization(trainable=False, name="frozen")(x)
    x = layers.Dropout(0.3, name="drop")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(5, name="head")(x))


def lstm() -> Any:
    x = tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(11, 6, name="emb")(x)
    x = layers.LSTM(5, return_sequences=True, name="lstm1")(x)
    x = layers.LayerNormalization(name="ln")(layers.LSTM(4, name="lstm2")(x))
    return keras.Model(tokens, layers.Dense(3, name="out")(x))


def transformer() -> Any:
    """With relu: Keras' own gelu has a constant in float32."""
    x = keras.Input((6, 8), name="x")
    y = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="mha")(x, x)])
    y = layers.LayerNormalization(name="ln1")(y)
    z = layers.Dense(8, name="down")(layers.Dense(16, activation="relu", name="up")(y))
    return keras.Model(x, layers.LayerNormalization(name="ln2")(layers.Add()([y, z])))


@keras.saving.register_keras_serializable(package="tests")
class TiedEmbedding(keras.Model):  # type: ignore[misc]
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.emb, self.inner = layers.Embedding(11, 6, name="emb"), layers.Dense(6, name="inner")

    def call(self, tokens: Any) -> Any:
        return keras.ops.matmul(self.inner(self.emb(tokens)), keras.ops.transpose(self.emb.embeddings))


def tied() -> Any:
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    return keras.Model(tokens, TiedEmbedding(name="lm")(tokens))


def free() -> Any:
    x = keras.Input((None, None, 3), name="image")
    return keras.Model(x, layers.Conv2D(4, 3, padding="same", name="conv")(x))


NETS = {f.__name__: f for f in (cnn, lstm, transformer, tied, free)}
SAME_TREE = ("cnn", "lstm", "free")  # a layer inside another is named "outer.inner"; a reshaped weight is loose


@pytest.fixture(scope="module", params=sorted(NETS))
def trip(request: Any) -> tuple[str, Any, TorchConversion, Conversion]:
    keras.utils.set_random_seed(3)
    model = NETS[request.param]()
    generator = np.random.default_rng(0)
    for v in model.variables:  # statistics and shifts that are none of the initial ones
        if "float" in v.dtype:
            v.assign(np.abs(generator.normal(size=v.shape)) * 0.4 + 0.1)
    there = isomorph.to_torch(model)
    return request.param, model, there, isomorph.to_keras(there)


def floats(model: Any) -> dict[str, np.ndarray]:
    return {n: np.array(v) for n, v in variable_names(model).items() if "seed_generator" not in n}


def test_every_variable_comes_home_bit_for_bit(trip: tuple[str, Any, TorchConversion, Conversion]) -> None:
    name, model, there, back = trip
    values, found = floats(model), there.pull(back.pull() | constants(there))
    assert set(back.report["paths"]) == set(values)
    for path, array in values.items():
        np.testing.assert_array_equal(found[path], array, strict=True)
    if name in SAME_TREE:
        assert back.report["paths"] == {path: [path] for path in values}
        new = floats(back.model)
        assert set(new) == set(values), "nothing besides"
        for path, array in values.items():
            np.testing.assert_array_equal(new[path], array, strict=True)
        assert not any(type(layer).__module__.startswith("isomorph.") for layer in back.model.layers)
    trained = {v.path for v in back.model.trainable_variables}
    for path in (v.path for v in model.trainable_variables):
        assert set(back.report["paths"][path]) <= trained


def constants(there: TorchConversion) -> dict[str, Any]:
    return {e.torch_name: e.variable for e in there.weights}


def test_inputs_and_outputs_have_their_axes(trip: tuple[str, Any, TorchConversion, Conversion]) -> None:
    _, model, _, back = trip
    for old, new in zip(model.inputs + model.outputs, back.model.inputs + back.model.outputs, strict=True):
        assert tuple(new.shape) == tuple(old.shape)
    x = drawn(model)
    np.testing.assert_allclose(back.model(x), model(x), rtol=1e-5, atol=1e-5)


def drawn(model: Any, seed: int = 1) -> np.ndarray:
    generator, port = np.random.default_rng(seed), model.inputs[0]
    shape = [4 if d is None else d for d in port.shape]
    return generator.normal(size=shape).astype("float32") if "float" in port.dtype else generator.integers(0, 11, shape)


@pytest.mark.parametrize("name", ["cnn", "lstm", "transformer", "tied"])
def test_the_original_and_the_new_model_are_equal(name: str) -> None:
    """Outputs, the gradient of each parameter by its name, and the statistics after a step in train mode."""
    keras.utils.set_random_seed(1)
    model = NETS[name]()
    back = isomorph.to_keras(isomorph.to_torch(model))
    verdict = isomorph.check(model, back, level="quick")
    assert verdict.status == "PASS", verdict.mismatches
    compared = set(verdict.coverage["parameters"]["compared"])
    assert compared >= {v.path for v in model.trainable_variables} - {"mha/key/bias"}  # softmax takes no notice of it


def test_an_lstm_that_is_handed_its_states_is_keras_own() -> None:
    x, state = keras.Input((7, 3)), keras.Input((4,))
    y, h, _ = layers.LSTM(4, name="one", return_sequences=True, return_state=True)(x)
    model = keras.Model([x, state], [y, layers.LSTM(4, name="two")(y, initial_state=[h, state])])
    back = isomorph.to_keras(isomorph.to_torch(model))
    assert isinstance(back.model.get_layer("two"), layers.LSTM)
    assert back.report["paths"] == {path: [path] for path in floats(model)}
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=shape).astype("float32") for shape in ((2, 7, 3), (2, 4))]
    for expected, found in zip(model(arrays), back.model(arrays), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.xfail(strict=True, reason="a GRU's two biases in torch are one variable in Keras: no entry says so")
def test_a_gru_comes_home_as_keras_own() -> None:
    x = keras.Input((7, 3))
    back = isomorph.to_keras(isomorph.to_torch(keras.Model(x, layers.GRU(4, name="gru")(x))))
    assert isinstance(back.model.get_layer("gru"), layers.GRU)


def test_what_was_tuned_in_torch_arrives_under_the_original_paths(tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    model = cnn()
    before = floats(model)
    there = isomorph.to_torch(model)
    module = there.module.train()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for seed in range(3):
        optimizer.zero_grad()
        module(torch.from_numpy(drawn(model, seed)).permute(0, 3, 1, 2)).square().mean().backward()
        optimizer.step()
    module.eval()
    back = isomorph.to_keras(there)
    new, tuned = floats(back.model), there.pull()
    moved = {path for path, array in new.items() if not np.array_equal(array, before[path])}
    assert moved == set(before) - {p for p in before if p.startswith("frozen/")}
    for path, array in tuned.items():
        np.testing.assert_array_equal(new[path], array, strict=True)
    back.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    there.assign_to(model)
    x = drawn(model)
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-5)
    assert isomorph.load(tmp_path / "tuned.keras").report["paths"] == back.report["paths"]


# ------------------------------------------------------------------------------------------- the batch normalisations
def test_batch_normalisation_is_keras_own_and_follows_the_batch() -> None:
    there = isomorph.to_torch(cnn())
    back = isomorph.to_keras(there.module, there.example())
    norms = {x.name: x for x in back.model.layers if "BatchNorm" in type(x).__name__}
    assert all(type(x) is layers.BatchNormalization for x in norms.values())
    assert {n: x.trainable for n, x in norms.items()} == {"bn1": True, "bn2": True, "bn3": True, "frozen": False}
    assert (norms["bn2"].scale, norms["bn2"].center, norms["bn3"].center) == (False, True, False)
    assert norms["bn2"].momentum == pytest.approx(0.8)
    assert not any(m.one_op for m in there.module.modules() if hasattr(m, "one_op")), "put back"


@pytest.mark.slow
def test_a_module_from_keras_and_its_keras_model_are_equal() -> None:
    there = isomorph.to_torch(cnn())
    verdict = isomorph.check(there.module, isomorph.to_keras(there.module, there.example()))
    assert verdict.status == "PASS", verdict.mismatches


class Mixed(torch.nn.Module):
    """One of each kind, and one of Keras' kind in two places at once."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.ours, self.theirs, self.twice = torch_layers.BatchNorm1d(3), torch.nn.BatchNorm1d(3), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.theirs(self.ours(x)).relu()
        return self.ours(y) if self.twice else y


@pytest.mark.parametrize("twice", [False, True])
def test_each_kind_keeps_its_variance(twice: bool) -> None:
    module = Mixed(twice).eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    back = isomorph.to_keras(module, (x,))
    if not twice:
        kinds = {y.name: type(y) for y in back.model.layers if "BatchNorm" in type(y).__name__}
        assert kinds["ours"] is layers.BatchNormalization
        assert kinds["theirs"] is not layers.BatchNormalization
    back.model(x.numpy(), training=True)
    module.train()(x)
    for name, tensor in back.pull().items():
        torch.testing.assert_close(tensor, module.state_dict()[name], msg=lambda text, name=name: f"{name}: {text}")


def test_frozen_weights_do_not_stop_the_statistics() -> None:
    """Keras' own layer would use the running ones then."""
    module = torch.nn.Sequential(torch_layers.BatchNorm1d(3), torch.nn.Linear(3, 2)).eval()
    module[0].requires_grad_(False)
    x = torch.randn(4, 3)
    back = isomorph.to_keras(module, (x,))
    found = back.model(x.numpy(), training=True)
    torch.testing.assert_close(torch.from_numpy(np.array(found)), module.train()(x).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back.pull()["0.running_var"], module[0].running_var)


# ------------------------------------------------------------------------------------------------- the layer of torch
def test_one_value_per_channel_normalises_to_the_shift() -> None:
    """torch.nn.BatchNorm1d refuses it, Keras does not."""
    layer = torch_layers.BatchNorm1d(3, eps=1e-3, momentum=0.25).double().train()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), layer.bias[None])
    torch.testing.assert_close(layer.running_var, torch.full((3,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(layer.running_mean, 0.25 * x[0].detach())


@pytest.mark.parametrize("batch", [1, 4])
def test_gradients_of_the_layer(batch: int) -> None:
    layer = torch_layers.BatchNorm1d(3).double().train()
    x = torch.randn(batch, 3, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return result

    assert torch.autograd.gradcheck(run, (x, *(p.detach().requires_grad_() for p in (layer.weight, layer.bias))))


def test_an_export_of_the_module_moves_by_the_population_variance() -> None:
    layer = torch_layers.BatchNorm1d(3, momentum=0.5).train()
    x = torch.randn(4, 3)
    program: Callable[..., Any] = torch.export.export(layer, (x,), strict=False).module()
    program(x)
    expected = 0.5 + 0.5 * x.var(0, correction=0)
    torch.testing.assert_close(dict(program.named_buffers())["running_var"], expected)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_layer_compiles() -> None:
    layer = torch_layers.BatchNorm1d(3).train()
    x = torch.randn(4, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = compiled(x)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var(0, correction=0))
    torch.testing.assert_close(found, torch.nn.functional.batch_norm(x, None, None, training=True))


def test_state_dicts_go_both_ways_between_torch_and_the_layer() -> None:
    """torch counts batches, ONNX and Keras do not."""
    ours, theirs = torch_layers.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    assert "num_batches_tracked" not in ours.state_dict()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(dict(ours.state_dict()))  # a file has no version in it
