"""Keras models that isomorph did not write, and conversions that were saved, as runners."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch import nn

import isomorph
from isomorph.convert import exact_constants
from isomorph.convert.conversion import load
from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.convert.keras_dtype import with_dtype
from isomorph.parity.runners.base import Perturbation, Request
from isomorph.parity.runners.keras_model import is_conversion, open_conversion, open_keras
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.runners.torch_runner import TorchRunner, example_leaves
from tests.parity.formats import gradients_are_right, keeps_protocol, largest, same
from tests.parity.twin import TwinConversion, make_net

IMAGE = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A registered layer with a variable and a default dtype inside `call`."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        return x * self.scale * ops.ones((1,)) * 0.1


def functional(dropout: float = 0.0) -> keras.Model:
    """Two inputs by name, a nested model, a layer used twice, two outputs by name."""
    keras.utils.set_random_seed(1)
    image, ids = keras.Input((6, 6, 3), name="image"), keras.Input((4,), dtype="int32", name="ids")
    x = keras.layers.BatchNormalization(name="batch_normalization")(keras.layers.Conv2D(4, 3, activation="tanh")(image))
    x = keras.layers.Dropout(dropout)(keras.layers.GlobalAveragePooling2D()(x))
    inner, dense = keras.Input((4,)), keras.layers.Dense(4)
    nested = keras.Model(inner, Scaled()(keras.layers.Dense(4)(inner)), name="nested")
    words = keras.layers.LSTM(4)(keras.layers.Embedding(17, 4)(ids))
    return keras.Model({"image": image, "ids": ids}, {"b": dense(nested(dense(x))), "a": words})


def test_a_functional_model_answers_in_its_own_names_and_layout() -> None:
    model = functional()
    opened = open_keras(ModelSpec(model))
    runner, about = opened.runner, opened.runner.about()
    assert (about.format, about.mapped, about.replays, about.gradients, about.float64) == (
        "keras",
        False,
        False,
        True,
        True,
    )
    assert [(p.name, p.dtype, p.dims) for p in about.inputs] == [
        ("ids", "int32", ("batch", 4)),
        ("image", "float32", ("batch", 6, 6, 3)),
    ]
    assert runner.index_bounds() == {"ids": 17}
    assert opened.example is not None
    keeps_protocol(runner, opened.example)
    ids = np.array([[1, 2, 3, 16]] * 2, np.int32)
    for mode in ("eval", "train"):
        response = runner.respond(Request((ids, IMAGE), mode))
        expected = model({"image": IMAGE, "ids": ids}, training=False)
        assert response.structure == {"a": 0, "b": 1}
        if mode == "eval":
            assert np.array_equal(response.outputs[0], expected["a"])
            assert np.array_equal(response.outputs[1], expected["b"])
    assert set(runner.parameters()) == {v.path for v in model.trainable_variables}  # the shared layer once
    assert set(runner.buffers()) == {"batch_normalization/moving_mean", "batch_normalization/moving_variance"}
    before = runner.state()["batch_normalization/moving_mean"]
    assert not np.array_equal(response.buffers["batch_normalization/moving_mean"], before)


def test_its_float64_twin_is_really_float64() -> None:
    opened = open_keras(ModelSpec(functional()))
    assert opened.example is not None
    wide = opened.runner.to_float64()
    for mode in ("eval", "train"):
        gradients_are_right(wide, opened.example, mode)
    assert set(wide.parameters()) == set(opened.runner.parameters())
    assert {str(a.dtype) for a in wide.state().values()} == {"float64"}
    assert wide.about().precision == "float64"


def test_the_twin_agrees_with_torch_in_float64() -> None:
    """The error a float32 leak would leave is 1e-8; Keras' own layers leave none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2), nn.Softmax(-1))
    model = keras.Sequential(
        [
            keras.Input((5,)), keras.layers.Dense(6, "tanh"), keras.layers.LayerNormalization(epsilon=1e-5),
            keras.layers.Dense(2, "softmax"),
        ]
    )  # fmt: skip
    arrays = [p.detach().numpy() for p in net.parameters()]
    for variable, array in zip(model.variables, arrays, strict=True):
        variable.assign(array.T)
    x = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    ours = open_keras(ModelSpec(model)).runner.to_float64().respond(Request((x,), "eval"))
    theirs = TorchRunner(net, example_leaves(torch.from_numpy(x)), ("x",)).to_float64()
    expected = theirs.respond(Request((x,), "eval", cotangents=ours.cotangents))
    assert np.max(np.abs(ours.outputs[0] - expected.outputs[0])) < 1e-14
    assert (
        np.max(np.abs(ours.input_gradients[next(iter(ours.input_gradients))] - expected.input_gradients["x"])) < 1e-14
    )


def test_dropout_draws_from_the_seed_and_can_be_switched_off() -> None:
    model = functional(dropout=0.5)
    opened = open_keras(ModelSpec(model))
    runner, example = opened.runner, opened.example
    assert example is not None
    keeps_protocol(runner, example)
    one, two = (runner.respond(Request(example, "train", seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one.outputs[1], two.outputs[1])
    off = runner.respond(Request(example, "train", seed=1, dropout=False))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    without = runner.respond(Request(example, "train", seed=1))
    assert np.array_equal(off.outputs[1], without.outputs[1])  # batch statistics, and nothing dropped
    assert not np.array_equal(off.outputs[1], runner.respond(Request(example, "eval")).outputs[1])


class Subclassed(keras.Model):
    """Two arguments, unnamed sublayers, an output that nests; not registered with Keras."""

    def __init__(self, width: int = 3, **config: Any) -> None:
        super().__init__(**config)
        self.blocks = [keras.layers.Dense(width), keras.layers.Dense(width, lambda x: x * 2)]
        self.norm = keras.layers.BatchNormalization()

    def call(self, x: Any, y: Any, training: bool = False) -> Any:
        h = self.norm(self.blocks[0](x), training=training)
        return {"h": h, "rest": (self.blocks[1](h), ops.sum(y))}


def test_a_subclassed_model_is_described_by_its_example() -> None:
    example = (np.ones((4, 5), np.float32) * np.arange(5, dtype=np.float32), np.ones((4, 2), np.float32))
    opened = open_keras(ModelSpec(Subclassed(), example=example))
    assert [(p.name, p.dims) for p in opened.runner.about().inputs] == [("x", (4, 5)), ("y", (4, 2))]
    response = opened.runner.respond(Request(example, "eval"))
    assert response.structure == {"h": 0, "rest": [1, 2]}
    keeps_protocol(opened.runner, example)
    gradients_are_right(opened.runner.to_float64(), example, "train")


def test_a_subclassed_model_is_described_by_texts() -> None:
    opened = open_keras(ModelSpec(Subclassed(), inputs=("x=float32[b,5]", "y=float32[b,2]")))
    assert [(p.name, p.dims) for p in opened.runner.about().inputs] == [("x", ("b", 5)), ("y", ("b", 2))]
    with pytest.raises(UsageError, match="does not say its inputs"):
        open_keras(ModelSpec(Subclassed()))


def test_a_mixed_policy_is_narrow_and_its_twin_is_not() -> None:
    dense = keras.layers.Dense(3, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((4,)), dense])
    runner = open_keras(ModelSpec(model)).runner
    assert runner.about().precision == "float16"
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    narrow, wide = runner.respond(Request((x,), "eval")), runner.to_float64().respond(Request((x,), "eval"))
    assert (narrow.dtypes, wide.dtypes) == (("float16",), ("float64",))
    exact = x.astype(float) @ np.asarray(dense.kernel, float) + np.asarray(dense.bias, float)
    assert np.max(np.abs(wide.outputs[0] - exact)) < 1e-14
    assert 0 < np.max(np.abs(narrow.outputs[0] - exact)) < 1e-2


def test_what_cannot_be_rebuilt_has_no_float64_and_says_why() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    runner = open_keras(ModelSpec(model)).runner
    assert not runner.about().float64
    assert "lambda" in runner.about().missing["float64"].lower()
    with pytest.raises(UnsupportedError, match="float64"):
        runner.to_float64()


def test_a_layer_shared_with_a_nested_model_has_no_float64_and_says_why() -> None:
    """Keras' own configs lose that it is one layer: a twin would have two."""
    dense, inner, x = keras.layers.Dense(4), keras.Input((4,)), keras.Input((4,))
    model = keras.Model(x, dense(keras.Model(inner, dense(inner))(x)))
    runner = open_keras(ModelSpec(model)).runner
    assert len(runner.parameters()) == 2
    assert "variables" in runner.about().missing["float64"]


def test_a_frozen_layer_is_no_parameter_of_the_optimiser() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, trainable=False), keras.layers.Dense(2)])
    for runner in (open_keras(ModelSpec(model)).runner, open_keras(ModelSpec(model)).runner.to_float64()):
        assert [info.trainable for info in runner.parameters().values()] == [False, False, True, True]
        gradients = runner.respond(Request((np.ones((2, 4), np.float32),), "eval")).parameter_gradients
        assert len(gradients) == 2


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_is_the_model_that_was_saved(tmp_path: Path, suffix: str) -> None:
    model, path = functional(), str(tmp_path / f"model{suffix}")
    model.save(path)
    assert not is_conversion(path)
    opened = open_keras(ModelSpec(path))
    assert opened.example is not None
    assert same(opened.runner.respond(Request(opened.example, "eval")),
                open_keras(ModelSpec(model)).runner.respond(Request(opened.example, "eval")))  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"PK no archive"])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(UsageError, match="no such file"):
        open_keras(ModelSpec(str(path)))
    path.write_bytes(content)
    with pytest.raises(UsageError, match="Keras cannot load it") as caught:
        open_keras(ModelSpec(str(path)))
    assert "\n" not in str(caught.value)


def test_a_file_with_unknown_layers_or_code_is_one_clear_line(tmp_path: Path) -> None:
    path = str(tmp_path / "model.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)]).save(path)
    with pytest.raises(UsageError, match="refused, it holds a Python lambda"):
        open_keras(ModelSpec(path))

    class Unregistered(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    keras.Sequential([keras.Input((4,)), Unregistered()]).save(path)
    with pytest.raises(UsageError, match="holds the class 'Unregistered', which is not registered"):
        open_keras(ModelSpec(path))


def test_a_converted_model_that_was_saved_without_its_map_is_a_plain_model(tmp_path: Path) -> None:
    path = str(tmp_path / "model.keras")
    isomorph.to_keras(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (torch.ones(2, 3, 6, 6),)).model.save(path)
    opened = open_keras(ModelSpec(path))
    assert not opened.runner.about().mapped
    assert opened.runner.about().float64
    assert opened.example is not None
    assert opened.example[0].shape[1:] == (6, 6, 3)


# -------------------------------------------------------------------------------------------------------- conversions
class Net(nn.Module):
    """Random sites in a Dropout and in attention, a folded constant, a recurrent layer, train-mode statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.3)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True)
        self.recur, self.head = nn.GRU(6, 5, batch_first=True), nn.LayerNorm(5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.drop(torch.relu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)
        x, _ = self.attend(x, x, x, need_weights=False)
        x, _ = self.recur(x)
        return {"y": self.head(x) * torch.sin(torch.arange(x.shape[-1]) * 0.1)}


def test_a_saved_conversion_is_the_original_in_both_dtypes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 4, 4)
    path = str(tmp_path / "net.keras")
    isomorph.to_keras(net, (x,)).save(path)
    assert is_conversion(path)
    opened = open_keras(ModelSpec(path))  # sees whose file it is
    about = opened.runner.about()
    assert (about.mapped, about.replays, about.sizes) == (True, True, {"b": (1, None)})
    assert opened.example is not None
    keeps_protocol(opened.runner, opened.example)
    own = TorchRunner(net, example_leaves(x), ("x",))
    for mode in ("eval", "train"):
        recorded = own.respond(Request((x.numpy(),), mode))
        request = Request(
            (x.numpy(),), mode, cotangents=recorded.cotangents, draws=recorded.draws, structure=recorded.structure
        )
        assert largest(recorded, opened.runner.respond(request)) < 1e-5
        wide = opened.runner.to_float64().respond(request)
        assert largest(own.to_float64().respond(request), wide) < 1e-13
        assert {str(a.dtype) for a in wide.parameter_gradients.values()} == {"float64"}


def test_a_conversion_records_what_it_draws() -> None:
    """As the original of a check: what it drew by itself, replayed, gives the same run, in float64 the same masks."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    runner = open_conversion(ModelSpec(isomorph.to_keras(Net(), (x,)))).runner
    request = Request((x.numpy(),), "train", seed=3)
    first = runner.respond(request)
    assert [d.op for d in first.draws] == ["aten.dropout.default", "aten.scaled_dot_product_attention.default"]
    assert first.draws[0].values.shape == (2, 6, 4, 4)  # torch's axis order
    assert set(np.unique(first.draws[0].values)) == {0.0, 1.0}
    again = replace(request, seed=9, cotangents=first.cotangents, draws=first.draws, structure=first.structure)
    assert largest(first, runner.respond(again)) < 1e-6
    assert largest(first, runner.to_float64().respond(again)) < 1e-4
    assert runner.respond(replace(request, mode="eval")).draws == ()


def test_a_loaded_conversion_can_be_cast_again_and_keeps_its_weights(tmp_path: Path) -> None:
    conversion = isomorph.to_keras(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (torch.randn(2, 4),))
    conversion.save(tmp_path / "a.keras")
    loaded = load(tmp_path / "a.keras")
    wide = loaded.with_dtype("float64")
    assert [p.dtype for p in (*wide.inputs, *wide.outputs)] == ["float64", "float64"]
    assert {e.dtype for e in wide.weights} == {"float64"}
    for name, value in conversion.pull().items():
        assert torch.equal(wide.pull()[name], value.double())
    loaded.weights[0].variable.assign(loaded.weights[0].variable + 1)
    again = loaded.with_dtype("float64")
    assert not np.array_equal(np.asarray(again.weights[0].variable), np.asarray(wide.weights[0].variable))


class Wave(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sin(torch.arange(4) * 0.1) + torch.arange(4)


def test_constants_are_kept_exactly_where_rounding_changed_them(tmp_path: Path) -> None:
    """Counts are exact in float32 and not kept twice; the same model gives the same bytes."""
    conversion = isomorph.to_keras(Wave(), (torch.ones(2, 4),))
    kept = exact_constants.exact_constants(conversion)
    assert [np.asarray(a).ravel().tolist() for a in kept.values()] == [np.sin(np.arange(4) * 0.1).tolist()]
    for name in ("a", "b"):
        conversion.save(tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    wide = open_keras(ModelSpec(str(tmp_path / "a.keras"))).runner.to_float64()
    response = wide.respond(Request((np.zeros((1, 4), np.float32),), "eval", backward=False))
    assert np.array_equal(response.outputs[0][0], np.sin(np.arange(4) * 0.1) + np.arange(4))
    assert exact_constants.exact_constants(isomorph.to_keras(nn.Linear(2, 2), (torch.ones(1, 2),))) == {}


def test_a_conversion_is_opened_as_an_object() -> None:
    twin = TwinConversion(make_net(), "")
    opened = open_conversion(ModelSpec(twin, example=torch.randn(2, 3, 5, 4)))
    assert opened.example is not None
    assert opened.example[0].shape == (2, 3, 5, 4)  # torch's axis order
    response = opened.runner.respond(Request(opened.example, "train", seed=4))  # draws its own dropout
    assert response.draws == ()
    assert same(response, opened.runner.respond(Request(opened.example, "train", seed=4)))


def test_a_perturbed_conversion_moves_and_is_put_back() -> None:
    opened = open_conversion(ModelSpec(TwinConversion(make_net(), ""), example=torch.randn(2, 3, 5, 4)))
    assert opened.example is not None
    before = opened.runner.state()
    at_rest = opened.runner.respond(Request(opened.example, "eval", seed=4))
    moves = [
        opened.runner.respond(Request(opened.example, "eval", seed=4, perturbation=Perturbation(1e-3, 1, *which)))
        for which in ((True, False), (False, True))
    ]
    assert all(0 < np.max(np.abs(m.outputs[0] - at_rest.outputs[0])) < 0.1 for m in moves)
    assert all(np.array_equal(before[name], array) for name, array in opened.runner.state().items())


def test_with_dtype_of_a_quantised_model_is_refused() -> None:
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    model.quantize("int8")
    with pytest.raises(UnsupportedError, match="quantised"):
        with_dtype(model, "float64")


def test_a_leaky_relu_keeps_its_slope_in_float64() -> None:
    """TensorFlow's kernel has the slope as a float32 attribute."""
    x = keras.Input((3,))
    runner = open_keras(ModelSpec(keras.Model(x, ops.leaky_relu(x, 0.2)))).runner.to_float64()
    given = np.array([[-1.0, 0.0, 2.0]])
    response = runner.respond(Request((given,), "eval", cotangents=(np.ones((1, 3)),)))
    assert response.outputs[0].tolist() == [[-0.2, 0.0, 2.0]]
    assert next(iter(response.input_gradients.values())).tolist() == [[0.2, 0.2, 1.0]]


def test_a_normalization_layer_is_the_same_in_float64() -> None:
    """It computes with tensors that it makes of its variables when it is adapted or loaded."""
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 5.0, (50, 4)).astype(np.float32))
    x = keras.Input((4,))
    runner = open_keras(ModelSpec(keras.Model(x, layer(x)))).runner.to_float64()
    given = np.array([[1.0, -2.0, 3.0, 0.5]])
    want = (given - np.asarray(layer.adapt_mean)) / np.sqrt(np.asarray(layer.adapt_variance, np.float64))
    np.testing.assert_allclose(runner.respond(Request((given,), "eval", backward=False)).outputs[0], want, rtol=1e-12)


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_biased_running_variance_is_no_kink(level: str) -> None:
    """Keras' own BatchNormalization moves by the variance of the batch itself: three examples are enough to tell."""
    net = nn.BatchNorm1d(4)
    layer = keras.layers.BatchNormalization(epsilon=net.eps, momentum=0.9)
    verdict = isomorph.check(
        net, keras.Sequential([keras.Input((4,)), layer]), ["input=float32[b=2..9,4]"], level=level
    )
    assert {(m.kind, m.name) for m in verdict.mismatches if m.quantity == "buffer"} == {("value", "running_var")}
