"""Keras to ONNX: the file is valid, computes the same, and holds every variable and every layer that trains."""

from __future__ import annotations

import functools
import json
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from isomorph.convert.onnx_out.api import to_onnx
from isomorph.convert.onnx_out.export import OnnxExport
from tests.convert.onnx_out_models import (
    INPUTS,
    MODELS,
    attributes,
    close,
    functional,
    initializers,
    ops,
    randomised,
    run,
)

layers = keras.layers


@functools.cache
def made(name: str) -> tuple[Any, OnnxExport]:
    model = MODELS[name]()
    return model, to_onnx(model, inputs=INPUTS.get(name))


def arrays(name: str, batch: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(batch)
    match name:
        case "convolutional":
            return [rng.standard_normal((batch, size, size + 3, 3)).astype("float32")]
        case "text":
            return [rng.integers(-11, 11, (batch, size)).astype("int32")]
    return [rng.standard_normal((n, 4)).astype("float32") for n in (batch, size)]


def provenance(proto: Any) -> dict[str, Any]:
    return json.loads(next(p.value for p in proto.metadata_props if p.key == "isomorph"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
def test_every_variable_is_there_by_name_and_to_the_bit(name: str) -> None:
    model, export = made(name)
    held = initializers(export.proto)
    for v in model.variables:
        value = np.asarray(v)
        assert held[v.path].tobytes() == value.tobytes(), v.path
        assert (held[v.path].dtype, held[v.path].shape) == (value.dtype, value.shape)
    assert set(provenance(export.proto)["variables"]) == {v.path for v in model.variables}
    assert export.report["variables"] == len(model.variables)


@pytest.mark.parametrize("name", MODELS)
def test_every_trainable_variable_is_read_by_the_graph(name: str) -> None:
    """Nothing is folded: what is not a parameter of a node would have no gradient."""
    model, export = made(name)
    read = {v for node in export.proto.graph.node for v in node.input}
    assert {v.path for v in model.trainable_variables} - read == ({"sub/unread"} if name == "subclassed" else set())


@pytest.mark.parametrize(("batch", "size"), [(1, 9), (4, 12)])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_computes_what_keras_does_at_any_size(name: str, batch: int, size: int) -> None:
    model, export = made(name)
    xs = arrays(name, batch, size)
    close(run(export.proto, *xs), model(*xs, training=False))


@pytest.mark.parametrize("name", MODELS)
def test_the_checker_accepts_it(name: str) -> None:
    proto = made(name)[1].proto
    onnx.checker.check_model(proto, full_check=True)
    assert len({n.name for n in proto.graph.node}) == len(proto.graph.node)


def test_dims_and_names_are_keras() -> None:
    def dims(values: Any) -> dict[str, list[Any]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    graph = made("convolutional")[1].proto.graph
    assert dims(graph.input) == {"x": ["batch", "x_1", "x_2", 3]}
    assert dims(graph.output) == {"head": ["batch", 4]}
    graph = made("text")[1].proto.graph
    assert dims(graph.input) == {"tokens": ["batch", "tokens_1"]}
    assert dims(graph.output) == {"state": ["batch", 4], "steps": ["batch", "tokens_1", 3]}
    graph = made("subclassed")[1].proto.graph
    assert list(dims(graph.input)) == ["a", "b"]
    assert provenance(made("subclassed")[1].proto)["output_structure"] == [0, [1, 2]]


def test_layers_that_train_are_ops_of_their_own() -> None:
    found = ops(made("convolutional")[1].proto)
    assert found.count("BatchNormalization") == 2
    assert all(found.count(op) == 1 for op in ("Dropout", "isomorph.SpatialDropout", "isomorph.GaussianNoise"))
    assert found.count("Conv") == 2  # the grouped one is one
    found = ops(made("text")[1].proto)
    assert (found.count("LSTM"), found.count("GRU"), found.count("RNN"), found.count("Loop")) == (1, 1, 1, 0)
    assert found.count("isomorph.SpatialDropout") == 1  # the GRU's dropout of its input
    assert (found.count("Gather"), found.count("Dropout")) == (1, 1)  # the embedding; inside the attention
    found = ops(made("subclassed")[1].proto)
    assert (found.count("MatMul"), found.count("Dropout")) == (3, 1)


def test_few_transposes() -> None:
    """Channels move to the front once, and the two kernels move."""
    report = made("convolutional")[1].report
    assert (report["transposes"], report["kernel_transposes"]) == (1, 2)


def test_layers_are_described() -> None:
    proto = made("convolutional")[1].proto
    described = provenance(proto)["layers"]
    norm = {"class": "BatchNormalization", "epsilon": 1e-3, "momentum": 0.99, "variance": "population", "frozen": False}
    assert described["inner/norm"] == norm
    assert described["drop"] == {"class": "Dropout", "rate": 0.3}
    assert described["noise"] == {"class": "GaussianNoise", "stddev": 0.1}
    of_layer = {n.op_type: {p.key: p.value for p in n.metadata_props} for n in proto.graph.node}
    assert of_layer["Dropout"] == {"isomorph.layer": "drop"}
    assert attributes(proto, "BatchNormalization")[0]["momentum"] == np.float32(0.99)
    assert attributes(proto, "SpatialDropout") == [{"axes": [2, 3], "rate": np.float32(0.2)}]  # channels first here
    assert attributes(proto, "Dropout") == [{"seed": 5}]


def test_kinds_and_frozen_weights() -> None:
    found = provenance(made("subclassed")[1].proto)["variables"]
    assert found["sub/dense/kernel"] == {
        "kind": "parameter",
        "trainable": True,
        "dtype": "float32",
        "torch_name": None,
        "tied": [],
        "transform": None,
        "persistent": True,
    }
    assert (found["sub/frozen/kernel"]["kind"], found["sub/frozen/kernel"]["trainable"]) == ("parameter", False)
    seeds = [v for name, v in found.items() if "seed" in name]
    assert [(v["kind"], v["trainable"]) for v in seeds] == [("constant", False)]  # torch has no tensor for it
    statistics = provenance(made("convolutional")[1].proto)["variables"]["inner/norm/moving_mean"]
    assert (statistics["kind"], statistics["trainable"]) == ("buffer", False)


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("rank", [2, 3, 5])
def test_batch_normalisation_of_any_axis(rank: int, axis: int) -> None:
    if axis >= rank:
        pytest.skip("no such axis")
    shape = (4, 3, 5, 2)[: rank - 1]
    model = functional(shape, layers.BatchNormalization(axis=axis, momentum=0.7, epsilon=0.01, name="norm"))
    export = to_onnx(model)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
    close(run(export.proto, x), model(x))
    assert export.report["markers"] == {"BatchNormalization": 1}


def test_constants_of_a_bare_normalisation_are_no_parameters() -> None:
    export = made("convolutional")[1]
    node = next(n for n in export.proto.graph.node if n.name == "bare/BatchNormalization")
    assert not {node.input[1], node.input[2]} & set(provenance(export.proto)["variables"])


def noisy(*chain: Any) -> Any:
    return functional((4, 6), *chain)


NOISES = {
    "dropout": (layers.Dropout, {"rate": 0.25}, "Dropout", {}),
    "shaped": (
        layers.Dropout,
        {"rate": 0.25, "noise_shape": (None, 1, 6)},
        "isomorph.Dropout",
        {"noise_shape": [0, 1, 6]},
    ),
    "spatial": (layers.SpatialDropout1D, {"rate": 0.5, "seed": 3}, "isomorph.SpatialDropout", {"axes": [1], "seed": 3}),
    "gaussian": (layers.GaussianNoise, {"stddev": 0.5}, "isomorph.GaussianNoise", {"stddev": 0.5}),
    "times": (layers.GaussianDropout, {"rate": 0.5}, "isomorph.GaussianDropout", {"rate": 0.5}),
    "alpha": (layers.AlphaDropout, {"rate": 0.5}, "isomorph.AlphaDropout", {"rate": 0.5}),
}


@pytest.mark.parametrize("name", NOISES)
def test_dropout_and_noise_are_kept_each_time(name: str) -> None:
    layer, arguments, op, wanted = NOISES[name]
    own = layer(**arguments)
    x = keras.Input((4, 6))
    export = to_onnx(keras.Model(x, own(x) + own(x) + layer(**arguments)(x)))  # equal calls on one tensor stay three
    assert ops(export.proto).count(op) == 3
    assert all(wanted.items() <= a.items() for a in attributes(export.proto, op.rpartition(".")[2]))
    assert export.report["train_only"] == []


@pytest.mark.parametrize("cell", [layers.LSTM, layers.GRU, layers.SimpleRNN])
@pytest.mark.parametrize(
    "options",
    [
        {"return_sequences": True, "return_state": True},
        {"go_backwards": True, "return_sequences": True},
        {"use_bias": False, "activation": "relu"},
        {"activation": "elu", "unroll": True},
    ],
    ids=str,
)
def test_recurrent_layers(cell: Any, options: dict[str, Any]) -> None:
    x, state = keras.Input((7, 3)), keras.Input((4,))
    states = [state, state * 0.5] if cell is layers.LSTM else [state]
    own = layers.Bidirectional(cell(4, **options)) if "use_bias" in options else cell(4, **options)
    given = states * 2 if "use_bias" in options else states
    model = randomised(keras.Model([x, state], own(x, initial_state=given)))
    export = to_onnx(model)
    kind = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}[cell.__name__]
    assert export.report["markers"] == {kind: 1}
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(s).astype("float32") for s in ((3, 7, 3), (3, 4))]
    close(run(export.proto, *xs), model(xs))


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("mode", ["concat", "sum", "ave", "mul", None])
def test_bidirectional_merges(mode: str | None, sequences: bool) -> None:
    inner = layers.GRU(3, return_sequences=sequences, return_state=mode is None, reset_after=False)
    model = functional((5, 2), layers.Bidirectional(inner, merge_mode=mode))
    export = to_onnx(model)
    x = np.random.default_rng(0).standard_normal((2, 5, 2)).astype("float32")
    close(run(export.proto, x), model(x))
    assert ops(export.proto).count("GRU") == 1
    assert attributes(export.proto, "GRU")[0]["direction"] == b"bidirectional"


def test_a_masked_recurrence_is_a_loop() -> None:
    model = functional((5, 2), layers.Masking(), layers.LSTM(3))
    export = to_onnx(model)
    x = np.random.default_rng(0).standard_normal((2, 5, 2)).astype("float32")
    x[:, 3:] = 0
    close(run(export.proto, x), model(x))
    assert export.report["markers"] == {}


def test_what_acts_in_train_mode_alone_is_reported() -> None:
    x = keras.Input((8, 8, 3))
    y = layers.Dropout(0.1, name="kept")(layers.RandomFlip(name="flip")(x))
    y = layers.Attention(dropout=0.2, name="attend")([layers.Reshape((64, 3))(y)] * 2)
    export = to_onnx(keras.Model(x, layers.LSTM(3, recurrent_dropout=0.3, name="lstm")(y)))
    assert export.report["train_only"] == ["attend", "flip", "lstm"]


class Sampling(layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        return x + 3.0 + keras.random.normal(keras.ops.shape(x), stddev=0.1, seed=self.seed)


class Scanning(layers.Layer):  # type: ignore[misc]
    """A running sum and product from either end; only the sums of each step, and both last states, are read."""

    def __init__(self, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse

    def call(self, x: Any) -> Any:
        steps = keras.ops.transpose(x, (1, 0, 2))

        def step(state: Any, now: Any) -> Any:
            both = keras.ops.concatenate([state[..., :3] + now, state[..., 3:] * (1 + now)], -1)
            return both, both

        first = keras.ops.ones_like(keras.ops.concatenate([steps[0], steps[0]], -1))
        last, each = keras.ops.scan(step, first, steps, reverse=self.reverse)
        return each[..., :3], last


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_a_loop_over_tensors(reverse: bool) -> None:
    model = functional((None, 3), Scanning(reverse))
    export = to_onnx(model)
    assert ops(export.proto).count("Loop") + ops(export.proto).count("Scan") == 1
    for length in (1, 6):
        x = np.random.default_rng(length).standard_normal((2, length, 3)).astype("float32")
        close(run(export.proto, x), model(x))


class Halting(layers.Layer):  # type: ignore[misc]
    """x times itself without its gradient, behind a convolution and before one; integers pass too."""

    def call(self, x: Any) -> Any:
        steps = keras.ops.stop_gradient(keras.ops.cast(x, "int32"))
        return x * keras.ops.stop_gradient(keras.ops.tanh(x)) + keras.ops.cast(steps, x.dtype)


def test_a_stopped_gradient_stays_stopped() -> None:
    import tensorflow as tf
    import torch

    from isomorph.convert.onnx_in.api import to_torch

    chain = [layers.Conv2D(4, 3, name="first"), Halting(), layers.Conv2D(2, 2, name="last")]
    for layer in chain:
        layer.dtype_policy = keras.DTypePolicy("float64")
    model = functional((6, 6, 3), *chain, dtype="float64")
    export = to_onnx(model)
    assert ops(export.proto).count("isomorph.StopGradient") == 1
    assert [f.name for f in export.proto.functions] == ["StopGradient"]
    assert export.report["transposes"] == 2  # of the input and the output: channels move past it
    conversion = to_torch(export)
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(x)))
    wanted = tape.gradient(loss, [v.value for v in model.trainable_variables])
    (conversion.module(torch.tensor(x.transpose(0, 3, 1, 2))) ** 2).sum().backward()
    mine = {e.source: e.transform.to_keras(e.variable.grad.numpy()) for e in conversion.weights}
    for v, gradient in zip(model.trainable_variables, wanted, strict=True):
        assert np.allclose(mine[v.path], gradient, rtol=1e-10, atol=1e-10), v.path


def test_states_of_seed_generators_are_no_tensors_of_torch() -> None:
    from isomorph.convert.onnx_in.api import to_torch

    model = functional((4,), layers.Dense(3, name="dense"), layers.Dropout(0.5, name="drop"), layers.GaussianNoise(0.1))
    assert sum("seed_generator_state" in v.path for v in model.variables) == 2
    conversion = to_torch(model)
    assert set(conversion.module.state_dict()) == {"dense.weight", "dense.bias"}
    assert not [n for n, _ in conversion.module.named_modules() if "seed" in n]
    before = [np.asarray(v) for v in model.variables]
    conversion.assign_to(model)
    assert set(conversion.pull()) == {v.path for v in model.trainable_variables}
    assert all(np.array_equal(a, np.asarray(v)) for a, v in zip(before, model.variables, strict=True))


def test_a_model_that_draws_at_inference() -> None:
    export = to_onnx(functional((400,), Sampling()))
    assert export.report["parity"]["max_error"] is None
    (y,) = run(export.proto, np.zeros((50, 400), "float32"))
    assert abs(y.mean() - 3.0) < 0.01
    assert abs(y.std() - 0.1) < 0.01


@pytest.mark.parametrize("dtype", ["float64", "float16", "mixed_float16"])
def test_other_dtypes(dtype: str) -> None:
    keras.config.set_dtype_policy(dtype)
    try:
        model = functional(
            (6, 6, 2),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Reshape((-1, 4)),
            layers.LSTM(3, name="lstm"),
        )
    finally:
        keras.config.set_dtype_policy("float32")
    export = to_onnx(model)
    held = initializers(export.proto)
    assert {str(held[v.path].dtype) for v in model.variables} == {str(v.dtype) for v in model.variables}
    assert export.report["parity"]["ran_as"] == ("float32" if dtype == "float64" else "own")  # no float64 Conv there
    assert export.report["parity"]["max_error"] < (1e-5 if dtype == "float64" else 5e-3)
    kind = onnx.TensorProto.DOUBLE if dtype == "float64" else onnx.TensorProto.FLOAT16
    assert export.proto.graph.output[0].type.tensor_type.elem_type == kind
    assert export.report["markers"] == {"BatchNormalization": 1, "LSTM": 1}


def test_shapes_are_int64_throughout() -> None:
    proto = made("text")[1].proto
    casts = [a["to"] for a in attributes(proto, "Cast")]
    assert onnx.TensorProto.INT32 not in casts
    assert "Identity" not in ops(proto)


def test_masks_of_infinities_do_not_multiply() -> None:
    class Causal(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            size = keras.ops.shape(x)[1]
            banned = keras.ops.triu(keras.ops.full((size, size), -float("inf")), 1)
            return keras.ops.softmax(keras.ops.where(x > 0, x, -float("inf")) + banned)

    model = functional((4, 4), Causal())
    x = np.abs(np.random.default_rng(0).standard_normal((2, 4, 4))).astype("float32")
    close(run(to_onnx(model, example=x).proto, x), model(x))
