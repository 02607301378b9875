"""Every Keras model of the corpus goes to ONNX: valid, equal in ONNX Runtime at two sizes, every variable kept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fixtures.keras_zoo import KERAS_ZOO
from isomorph.convert.onnx_out.api import to_onnx
from isomorph.convert.onnx_out.trace import variable_names
from isomorph.convert.onnx_out.verify import in_float32

FAST = [
    "attention_masked",
    "batchnorm_axes",
    "batchnorm_conv",
    "conv1d_causal_dilated",
    "conv2d_any_size",
    "conv2d_grouped",
    "conv2d_transpose",
    "conv3d",
    "dense_scalar_variable",
    "dict_inputs_outputs",
    "dropouts",
    "einsum_dense",
    "embedding_tied",
    "gru",
    "integer_lookup",
    "lstm",
    "nested_functional",
    "ops_shapes",
    "pooling2d",
    "prelu",
    "resizing_any_size",
    "shared_layer",
    "simple_rnn",
    "subclassed",
    "time_distributed_any_length",
]

# What stays open, each with its reason: strict, so that a row that passes must go.
OPEN: dict[str, str] = {
    "hashing": "a string's hash (StringToHashBucketFast) has no ONNX op",
}

RELATIVE = {"float64": 1e-9, "float32": 2e-5, "float16": 5e-3}


def rows() -> list[Any]:
    found = []
    for name, fixture in KERAS_ZOO.items():
        marks = [] if name in FAST else [pytest.mark.slow]
        if name in OPEN:
            marks.append(pytest.mark.xfail(reason=OPEN[name], strict=True))
        found.append(pytest.param(fixture, id=name, marks=marks))
    return found


def test_the_corpus_is_as_wide_as_asked() -> None:
    assert len(KERAS_ZOO) >= 45
    assert set(FAST) | set(OPEN) <= KERAS_ZOO.keys()


@pytest.mark.parametrize("fixture", rows())
def test_goes_to_onnx(fixture: Any) -> None:
    model = fixture.build()
    asked = {"inputs": fixture.specs()} if fixture.tags & {"subclassed", "no inputs"} else {}
    export = to_onnx(model, example=fixture.example(), **asked)
    proto = export.proto
    onnx.checker.check_model(proto, full_check=True)
    assert_variables_kept(model, proto)
    assert_layers_kept(model, fixture, proto)
    assert_free_dims(fixture, model, proto)
    session = opened(proto)
    for batch, large in ((2, False), (3, True)):
        x = fixture.example(2 if "fixed batch" in fixture.tags else batch, seed=1, large=large)
        assert_equal(expected(model, x, fixture), run(session, x), fixture)


def assert_variables_kept(model: keras.Model, proto: Any) -> None:
    """Under their Keras path; under their place in the layer tree where paths repeat."""
    names = variable_names(model)
    paths = Counter(v.path for v in names.values())
    held = {t.name: t for t in proto.graph.initializer}
    assert len(names) == len({id(v) for v in model.variables})
    assert names.keys() <= held.keys()
    for name, variable in names.items():
        assert name == variable.path or max(paths.values()) > 1
        array, value = numpy_helper.to_array(held[name]), np.asarray(variable)
        assert (array.dtype, array.shape) == (value.dtype, value.shape)
        assert array.tobytes() == value.tobytes(), f"{name} has other bits"


def assert_layers_kept(model: keras.Model, fixture: Any, proto: Any) -> None:
    """One BatchNormalization and one Dropout node for each call of such a layer. A norm that is given a mask leaves
    masked steps out of its statistics in training, which ONNX's op does not: it is not kept as one."""
    with counted(keras.layers.BatchNormalization, keras.layers.Dropout) as calls:
        expected(model, fixture.example(), fixture)
    kinds = Counter(node.op_type for node in every_node(proto.graph))
    assert kinds["BatchNormalization"] == calls["BatchNormalization"]
    assert kinds["Dropout"] == calls["Dropout"]


@contextmanager
def counted(*classes: type) -> Iterator[Counter[str]]:
    """How often `call` of each layer class is entered."""
    calls: Counter[str] = Counter()
    own = {cls: cls.call for cls in classes}

    def counting(cls: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[cls.__name__] += type(self) is cls and kwargs.get("mask") is None
            return own[cls](self, *args, **kwargs)

        return call

    for cls in classes:
        cls.call = counting(cls)
    try:
        yield calls
    finally:
        for cls in classes:
            cls.call = own[cls]


def every_node(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from every_node(attribute.g)


def assert_free_dims(fixture: Any, model: keras.Model, proto: Any) -> None:
    """What may be of any size in Keras may be of any size in ONNX, and nothing else."""
    flat = keras.tree.flatten(fixture.specs())
    inputs = list(proto.graph.input)
    assert len(inputs) == len(flat)
    if isinstance(fixture.inputs, dict):
        by_name = {value.name: value for value in inputs}
        inputs = [by_name[name] for name in sorted(fixture.inputs)]  # the order in which Keras flattens a dict
    for spec, value in zip(flat, inputs, strict=True):
        dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        assert dims == [2 if "fixed batch" in fixture.tags else None, *spec.shape[1:]], value.name


def expected(model: keras.Model, x: Any, fixture: Any) -> list[np.ndarray]:
    if "stateful" in fixture.tags:  # a call would change the states
        trainable, rest = (
            [v.value for v in held] for held in (model.trainable_variables, model.non_trainable_variables)
        )
        return [np.asarray(y) for y in keras.tree.flatten(model.stateless_call(trainable, rest, x, training=False)[0])]
    return [np.asarray(y) for y in keras.tree.flatten(call(model, x))]


def call(model: keras.Model, x: Any) -> Any:
    return model(x, training=False) if model._call_has_training_arg else model(x)


def opened(proto: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:  # float64 kernels that ONNX Runtime lacks
        return opened(in_float32(proto))


def run(session: Any, x: Any) -> list[np.ndarray]:
    inputs = session.get_inputs()
    given = (
        x
        if isinstance(x, dict)
        else dict(zip([v.name for v in inputs], x if isinstance(x, list) else [x], strict=True))
    )
    cast = {v.name: np.float32 for v in inputs if v.type == "tensor(float)"}
    return session.run(None, {name: np.asarray(a, cast.get(name, a.dtype)) for name, a in given.items()})


def assert_equal(wanted: list[np.ndarray], found: list[np.ndarray], fixture: Any) -> None:
    assert len(wanted) == len(found)
    for i, (keras_y, onnx_y) in enumerate(zip(wanted, found, strict=True)):
        assert onnx_y.shape == keras_y.shape, f"output {i}"
        if keras_y.dtype.kind != "f":
            assert onnx_y.dtype == keras_y.dtype
            np.testing.assert_array_equal(onnx_y, keras_y, err_msg=f"output {i}")
            continue
        lower = min(keras_y.dtype, onnx_y.dtype, key=lambda d: d.itemsize).name
        relative = RELATIVE["float16" if "float16" in fixture.tags else lower]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(onnx_y, keras_y, rtol=relative, atol=relative, err_msg=f"output {i}")
