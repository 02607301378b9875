"""keras.applications goes to ONNX and on to torch: valid, equal in ONNX Runtime at two batch sizes, all variables kept,
the same gradients by name in float64."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.keras_zoo.applications import ARCHITECTURES, build, example
from isomorph.convert.keras_dtype import default_dtype
from isomorph.convert.onnx_out.api import to_onnx
from tests.convert.test_keras_zoo import opened
from tests.convert.test_keras_zoo_gradients import assert_same_model

pytestmark = pytest.mark.slow
USUAL = ("ConvNeXtTiny", "EfficientNetV2B0", "MobileNetV2", "MobileNetV3Small")  # the others take hours: -m long
MODELS = [pytest.param(name, marks=() if name in USUAL else pytest.mark.long) for name in ARCHITECTURES]
TRAINED = [pytest.param(name, marks=() if name == "MobileNetV2" else pytest.mark.long) for name in ARCHITECTURES]


def test_every_architecture_is_listed() -> None:
    offered = {name for name in dir(keras.applications) if name[0].isupper()}
    assert offered == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", MODELS)
def test_goes_to_onnx(name: str) -> None:
    model = build(name)
    proto = to_onnx(model, example=example(name)).proto
    onnx.checker.check_model(proto, full_check=True)
    held = {t.name: t for t in proto.graph.initializer}
    for variable in model.variables:
        assert numpy_helper.to_array(held[variable.path]).tobytes() == np.asarray(variable).tobytes(), variable.path
    kinds = Counter(node.op_type for node in proto.graph.node)
    for kind in ("BatchNormalization", "Dropout"):
        assert kinds[kind] == sum(type(layer).__name__ == kind for layer in model._flatten_layers())
    session: Any = opened(proto)
    del proto, held
    gc.collect()
    for batch in (1, 3):
        x = example(name, batch, seed=1)
        ours, theirs = session.run(None, {session.get_inputs()[0].name: x})[0], np.asarray(model(x, training=False))
        close = 1e-4 * np.abs(theirs).max()
        assert batch == 1 or theirs.std(axis=0).max() > 10 * close, "the examples are all alike to the model"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=close)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", TRAINED)
def test_gradients(name: str, training: bool) -> None:
    with default_dtype("float64"):
        assert_same_model(build(name), example(name, 6, seed=2).astype("float64"), training, close=1e-7)
