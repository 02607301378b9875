"""SavedModel directories and LiteRT flatbuffers as runners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.parity.runners.base import Perturbation, Request
from isomorph.parity.runners.keras_model import open_keras
from isomorph.parity.runners.litert import Slot, open_litert
from isomorph.parity.runners.saved_model import open_saved_model
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.settings import QUANTISED
from tests.parity.formats import keeps_protocol, same

IMAGE = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """One input by name, two outputs by name."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="image")
    h = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    return keras.Model(x, {"logits": keras.layers.Dense(40)(h), "features": keras.layers.Dense(4)(h)})


@pytest.fixture(scope="module")
def folder(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("saved") / "model")
    model.export(path, verbose=False)
    return path


# --------------------------------------------------------------------------------------------------------- saved model
def test_a_saved_model_has_the_outputs_and_gradients_of_its_model(model: keras.Model, folder: str) -> None:
    opened = open_saved_model(ModelSpec(folder))
    runner, about = opened.runner, opened.runner.about()
    assert (about.format, about.modes, about.gradients, about.float64) == ("saved_model", ("eval",), True, False)
    assert [(p.name, p.dims) for p in about.inputs] == [("image", ("batch", 8, 8, 3))]
    assert [p.name for p in about.outputs] == ["features", "logits"]
    assert opened.example is not None
    keeps_protocol(runner, opened.example)
    response = runner.respond(Request((IMAGE,), "eval", seed=3))
    assert response.structure == {"features": 0, "logits": 1}
    own = open_keras(ModelSpec(model)).runner.respond(Request((IMAGE,), "eval", cotangents=response.cotangents))
    for mine, theirs in zip(response.outputs, own.outputs, strict=True):
        assert np.max(np.abs(mine - theirs)) < 1e-5
    assert np.max(np.abs(response.input_gradients["image"] - own.input_gradients["image"])) < 1e-5
    assert response.parameter_gradients.keys() == own.parameter_gradients.keys()
    for name, gradient in response.parameter_gradients.items():
        assert np.max(np.abs(gradient - own.parameter_gradients[name])) < 1e-3
    with pytest.raises(UnsupportedError, match="traced"):
        runner.to_float64()


class Plain(tf.Module):
    """Variables of both kinds, a signature with two inputs in another order than the alphabet's, a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.arange(6.0, dtype=np.float32).reshape(2, 3), name="w")
        self.calls = tf.Variable(0.0, trainable=False, name="calls")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "k")])
    def serve(self, x: Any, k: Any) -> Any:
        self.calls.assign_add(1.0)
        return {f"output_{i}": tf.matmul(x, self.w) * tf.cast(k, tf.float32)[:, None] * i for i in (1, 2, 10)}


def test_a_saved_model_without_keras_keeps_its_variables(tmp_path: Path) -> None:
    module, path = Plain(), str(tmp_path / "plain")
    tf.saved_model.save(module, path, signatures={"serve": module.serve})
    opened = open_saved_model(ModelSpec(path))
    runner = opened.runner
    assert opened.example is not None
    keeps_protocol(runner, opened.example)
    assert [p.name for p in runner.about().outputs] == ["output_1", "output_2", "output_10"]
    assert set(runner.parameters()) == {"w"}
    assert set(runner.buffers()) == {"calls"}
    order = [p.name for p in runner.about().inputs]
    given = {"x": np.ones((2, 2), np.float32), "k": np.array([1, 2], np.int32)}
    response = runner.respond(Request(tuple(given[name] for name in order), "eval"))
    assert response.structure == [0, 1, 2]
    assert np.array_equal(response.outputs[1], [[6, 10, 14], [12, 20, 28]])
    assert response.buffers["calls"] == runner.state()["calls"] + 1
    assert set(response.input_gradients) == {"x"}
    moved = runner.respond(Request(tuple(given[name] for name in order), "eval", perturbation=Perturbation(1e-3, 1)))
    assert 0 < np.max(np.abs(moved.outputs[1] - response.outputs[1])) < 1


class NoGradient(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def serve(self, x: Any) -> Any:
        return {"y": tf.raw_ops.FusedResizeAndPadConv2D(
            input=tf.reshape(x, (1, 1, -1, 1)), size=[2, 4], paddings=[[0, 0]] * 4, filter=tf.ones((1, 1, 1, 1)),
            mode="REFLECT", strides=[1, 1, 1, 1], padding="VALID",
        )}  # fmt: skip


def test_an_op_without_a_gradient_makes_it_forward_only(tmp_path: Path) -> None:
    module, path = NoGradient(), str(tmp_path / "none")
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
    opened = open_saved_model(ModelSpec(path))
    about = opened.runner.about()
    assert not about.gradients
    assert "differentiate" in about.missing["gradients"]
    assert opened.example is not None
    keeps_protocol(opened.runner, opened.example)


def test_what_is_no_saved_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no SavedModel"):
        open_saved_model(ModelSpec(str(tmp_path)))
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot load it") as caught:
        open_saved_model(ModelSpec(str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_signatures_that_none_can_choose_between_are_listed(tmp_path: Path) -> None:
    module, path = Plain(), str(tmp_path / "two")
    tf.saved_model.save(module, path, signatures={"encode": module.serve, "decode": module.serve})
    with pytest.raises(UsageError, match=r"signatures .*encode"):
        open_saved_model(ModelSpec(path))


# -------------------------------------------------------------------------------------------------------------- litert
def representative() -> Iterator[list[np.ndarray]]:
    for seed in range(20):
        yield [np.random.default_rng(seed).standard_normal((1, 8, 8, 3)).astype(np.float32)]


OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16-weights": {"optimizations": [tf.lite.Optimize.DEFAULT], "supported_types": [tf.float16]},
    "int8-weights": {"optimizations": [tf.lite.Optimize.DEFAULT]},
    "int8": {
        "optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": representative,
        "supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8], "inference_input_type": tf.int8,
        "inference_output_type": tf.uint8,
    },
}  # fmt: skip
BUDGET = {**QUANTISED, "float32": 1e-6}


def flatbuffer(folder: str, path: Path, kind: str, **options: Any) -> str:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    for name, value in (options or OPTIONS[kind]).items():
        setattr(converter.target_spec if name.startswith("supported") else converter, name, value)
    file = path / f"{kind}.tflite"
    file.write_bytes(converter.convert())
    return str(file)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_flatbuffer_is_compared_as_real_numbers(model: keras.Model, folder: str, tmp_path: Path, kind: str) -> None:
    opened = open_litert(ModelSpec(flatbuffer(folder, tmp_path, kind)))
    runner, about = opened.runner, opened.runner.about()
    assert (about.format, about.precision, about.gradients, about.modes) == ("litert", kind, False, ("eval",))
    assert [(p.name, p.dtype, p.dims) for p in about.inputs] == [("image", "float32", ("batch", 8, 8, 3))]
    assert opened.example is not None
    keeps_protocol(runner, opened.example)
    for count in (1, 3, 2):  # it is resized, back and forth
        response = runner.respond(Request((IMAGE[:count],), "eval", backward=False))
        assert response.structure == {"features": 0, "logits": 1}
        assert response.dtypes == ("float32", "float32")
        expected = model(IMAGE[:count])
        for name, array in zip(("features", "logits"), response.outputs, strict=True):
            exact = np.asarray(expected[name])
            error = float(np.sqrt(np.mean((array - exact) ** 2)) / exact.std())
            assert error < BUDGET[kind]
            assert (error == 0) <= (kind == "float32")
    assert not np.isnan(runner.respond(Request((IMAGE * np.nan,), "eval")).outputs[0]).any() or kind != "int8"


def test_every_intermediate_tensor_of_a_flatbuffer_can_be_seen(folder: str, tmp_path: Path) -> None:
    runner = open_litert(ModelSpec(flatbuffer(folder, tmp_path, "float32"))).runner
    request = Request((IMAGE,), "eval", backward=False)
    traces = runner.trace(request)
    assert [t.kind for t in traces if "CONV" in t.kind or "FULLY" in t.kind] == ["CONV_2D", *["FULLY_CONNECTED"] * 2]
    (conv,) = (t for t in traces if t.kind == "CONV_2D")
    assert np.array_equal(conv.inputs[0], IMAGE)
    assert conv.outputs[0].shape == (3, 6, 6, 8)
    assert (conv.outputs[0] >= 0).all()
    seen = [t.outputs[0] for t in traces if t.kind == "FULLY_CONNECTED"]
    for output in runner.respond(request).outputs:
        assert any(np.array_equal(output, array) for array in seen)


class Counting(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total = tf.Variable(np.zeros((1, 2), np.float32), name="total")

    @tf.function(input_signature=[tf.TensorSpec([1, 2], tf.float32, "x")])
    def serve(self, x: Any) -> Any:
        self.total.assign_add(x)
        return {"total": self.total + 0.0, "same": x}


def test_a_flatbuffer_with_variables_starts_afresh_at_each_run(tmp_path: Path) -> None:
    module = Counting()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": module.serve})
    path = flatbuffer(str(tmp_path / "saved"), tmp_path, "stateful", experimental_enable_resource_variables=True)
    opened = open_litert(ModelSpec(path))
    one = np.ones((1, 2), np.float32)
    responses = [opened.runner.respond(Request((one,), "eval")) for _ in range(3)]
    assert all(same(responses[0], other) for other in responses)
    assert [array.tolist() for array in responses[0].outputs] == [[[1, 1]], [[1, 1]]]


def test_a_slot_rounds_and_saturates() -> None:
    slot = Slot("x", 0, "int8", (3,), 0.5, -1)
    levels = slot.quantised(np.array([0.0, 0.24, 0.26, 1e9, -1e9], np.float32))
    assert levels.tolist() == [-1, -1, 0, 127, -128]
    assert slot.real(levels).tolist() == [0.0, 0.0, 0.5, 64.0, -63.5]


def test_what_is_no_flatbuffer_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    with pytest.raises(UsageError, match="no such file"):
        open_litert(ModelSpec(str(path)))
    path.write_bytes(b"nothing of the kind, and quite long enough to be looked at")
    with pytest.raises(UsageError, match="LiteRT cannot run it") as caught:
        open_litert(ModelSpec(str(path)))
    assert "\n" not in str(caught.value)
