"""Every Keras model of the corpus goes on to torch with its gradients, by name, in float64, in inference and training.

Noise is turned off (rates 0); what dropout does with a drawn mask is tested elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from fixtures.keras_zoo import KERAS_ZOO
from isomorph.convert.keras_dtype import default_dtype
from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_out.api import to_onnx
from tests.convert.test_keras_zoo import OPEN, call

FAST = [
    "batchnorm_conv",
    "conv2d_grouped",
    "dense_scalar_variable",
    "embedding_tied",
    "gru",
    "layernorm",
    "lstm",
    "multi_head_attention",
    "unet",
]

# Those with layers that act in training alone.
TRAINED = [
    "batchnorm_axes",
    "batchnorm_conv",
    "batchnorm_dense",
    "batchnorm_frozen",
    "batchnorm_masked",
    "batchnorm_ranks",
    "batchnorm_shared",
    "dropouts",
    "float64",
    "frozen_layers",
    "mixed_precision",
    "nested_functional",
    "sequential_in_functional",
    "shared_layer",
    "subclassed",
    "time_distributed",
    "transformer_encoder",
    "unet",
]

# What stays open, each with its reason: strict.
OPEN_EVAL: dict[str, str] = {}
OPEN_TRAIN: dict[str, str] = {
    "batchnorm_masked": "Keras leaves masked steps out of a norm's statistics, ONNX's op cannot",
    "subclassed": "the graph is that of inference, and the model branches by `training` in Python",
}
# Of the largest value of its tensor. A right program in float64 is at 1e-12; attributes of ONNX are float32 numbers.
CLOSE = {"float64": 1e-9, "float32 attribute": 1e-7, "float32": 1e-4, "float16": 2e-2}


def rows(more: dict[str, str]) -> list[Any]:
    found = []
    for name, fixture in KERAS_ZOO.items():
        marks = [] if name in FAST else [pytest.mark.slow]
        if reason := {**OPEN, **more}.get(name):
            marks.append(pytest.mark.xfail(reason=reason, strict=True))
        found.append(pytest.param(fixture, id=name, marks=marks))
    return found


@pytest.mark.parametrize("fixture", rows(OPEN_EVAL))
def test_gradients_in_inference(fixture: Any) -> None:
    assert_same(fixture, training=False)


@pytest.mark.parametrize("fixture", [row for row in rows(OPEN_TRAIN) if row.id in TRAINED])
def test_gradients_and_statistics_in_training(fixture: Any) -> None:
    assert_same(fixture, training=True)


@pytest.mark.slow
def test_every_model_with_a_norm_is_trained() -> None:
    norm = keras.layers.BatchNormalization
    found = {name for name, f in KERAS_ZOO.items() if any(isinstance(layer, norm) for layer in every_layer(f.build()))}
    assert found <= set(TRAINED)


def every_layer(model: keras.Model) -> Iterator[Any]:
    yield from model._flatten_layers()


def assert_same(fixture: Any, training: bool) -> None:
    kind = next((d for d in CLOSE if d in fixture.tags), "float64")
    dtype = "float64" if kind in ("float64", "float32 attribute") else "float32"
    with default_dtype(dtype):
        x = fixture.example(3 if "fixed batch" not in fixture.tags else 2, seed=2)
        x = keras.tree.map_structure(wide, x) if dtype == "float64" else x
        specs = retyped(fixture.specs()) if dtype == "float64" else fixture.specs()
        asked = specs if fixture.tags & {"subclassed", "no inputs"} else None
        assert_same_model(fixture.build(), x, training, CLOSE[kind], asked, "no gradient" not in fixture.tags)


def assert_same_model(
    model: keras.Model, x: Any, training: bool, close: float, inputs: Any = None, differentiable: bool = True
) -> None:
    """Outputs, statistics after the call, gradients by the names of inputs and variables."""
    conversion = to_torch(to_onnx(without_noise(model), example=x, inputs=inputs), layout="source")
    order = [p.name for p in conversion.inputs]
    given = x if isinstance(x, dict) else dict(zip(order, flat(x), strict=True))
    ours = torch_answer(conversion, [given[name] for name in order], training)
    theirs = keras_answer(model, x, training, differentiable)
    for i, (a, b) in enumerate(zip(ours["outputs"], theirs["outputs"], strict=True)):
        assert_close(a, b, f"output {i}", close)
    for name, value in theirs["state"].items():
        assert_close(ours["state"][name], value, name, close)
    if not differentiable:
        return
    names = sorted(x) if isinstance(x, dict) else order  # Keras flattens a dict by its sorted keys
    for name, gradient in zip(names, theirs["inputs"], strict=True):
        assert_close(ours["inputs"][name], gradient, f"the gradient of input {name}", close)
    assert ours["gradients"].keys() == theirs["gradients"].keys()
    for name, gradient in theirs["gradients"].items():
        assert_close(ours["gradients"][name], gradient, f"the gradient of {name}", close)


def flat(x: Any) -> list[Any]:
    return keras.tree.flatten(x)


def wide(a: np.ndarray) -> np.ndarray:
    return a.astype("float64") if a.dtype == np.float32 else a


def retyped(specs: Any) -> Any:
    def spec(s: Any) -> Any:
        return keras.InputSpec(shape=s.shape, dtype="float64" if s.dtype == "float32" else s.dtype)

    return keras.tree.map_structure(spec, specs)


def without_noise(model: keras.Model) -> keras.Model:
    for layer in every_layer(model):
        for name in ("rate", "stddev", "dropout", "recurrent_dropout"):
            if isinstance(getattr(layer, name, None), float) and not isinstance(
                getattr(type(layer), name, None), property
            ):
                setattr(layer, name, 0.0)
    return model


def cotangents(outputs: list[Any]) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(np.shape(y)) for y in outputs]


def keras_answer(model: keras.Model, x: Any, training: bool, differentiable: bool) -> dict[str, Any]:
    """Outputs, the gradient of their product with fixed cotangents, and the statistics after the call."""
    from isomorph.convert.onnx_out.trace import variable_names

    names = {id(v): name for name, v in variable_names(model).items()}
    tensors = keras.tree.map_structure(tf.constant, x)
    with tf.GradientTape(persistent=True) as tape:
        floats = [t for t in flat(tensors) if t.dtype.is_floating]
        tape.watch(floats)
        outputs = flat(model(tensors, training=training) if training else call(model, tensors))
        terms = [
            tf.reduce_sum(tf.cast(y, tf.float64) * c)
            for y, c in zip(outputs, cotangents(outputs), strict=True)
            if y.dtype.is_floating
        ]
        total = tf.add_n(terms) if terms and differentiable else tf.zeros((), tf.float64)
    variables = list(model.trainable_variables)
    gradients = tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")
    inputs = iter(tape.gradient(total, floats, unconnected_gradients="zero"))
    return {
        "outputs": [np.asarray(y) for y in outputs],
        "inputs": [np.asarray(next(inputs)) if t.dtype.is_floating else None for t in flat(tensors)],
        "gradients": {
            names[id(v)]: np.asarray(tf.convert_to_tensor(g)) for v, g in zip(variables, gradients, strict=True)
        },
        "state": {names[id(v)]: np.asarray(v) for v in model.non_trainable_variables if "moving_" in v.path},
    }


def torch_answer(conversion: Any, arrays: list[np.ndarray], training: bool) -> dict[str, Any]:
    module = conversion.module.train(training)
    tensors = [torch.from_numpy(a.copy()) for a in arrays]
    for t in tensors:
        t.requires_grad_(t.is_floating_point())
    outputs = conversion.flatten_outputs(module(*tensors))
    terms = [
        (y.double() * torch.from_numpy(c)).sum()
        for y, c in zip(outputs, cotangents(outputs), strict=True)
        if y.is_floating_point()
    ]
    total = sum(terms)
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    return {
        "outputs": [y.detach().numpy() for y in outputs],
        "inputs": {
            p.name: None if t.grad is None else t.grad.numpy() for p, t in zip(conversion.inputs, tensors, strict=True)
        },
        "gradients": gradients_of(conversion),
        "state": conversion.pull(),
    }


def gradients_of(conversion: Any) -> dict[str, np.ndarray]:
    """By initializer, in the source's layout, as `TorchConversion.pull` gives values."""
    found: dict[str, np.ndarray] = {}
    for entry in conversion.weights:
        if entry.tied_to is not None or not entry.source or not entry.trainable:
            continue
        own = entry.variable
        array = entry.to_keras(np.zeros(own.shape) if own.grad is None else own.grad.numpy())
        if entry.part is None:
            found[entry.source] = array
        else:
            whole = found.setdefault(entry.source, np.zeros(conversion.shapes[entry.source]))
            whole[tuple(slice(a, b) for a, b in entry.part)] = array
    return found


def assert_close(ours: Any, theirs: Any, what: str, close: float) -> None:
    if theirs is None:
        return
    ours = np.zeros_like(theirs) if ours is None else np.asarray(ours)
    assert ours.shape == theirs.shape, what
    if theirs.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs, err_msg=what)
        return
    finite = theirs[np.isfinite(theirs)]
    scale = max(np.abs(finite).max(initial=0.0), 1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=close * scale, err_msg=what)
