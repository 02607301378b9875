"""Small Keras models that between them have every layer that the exporter treats in its own way, and a way to run what
it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime

layers = keras.layers


def randomised(model: Any, seed: int = 0) -> Any:
    """Every variable off its initial value: a forgotten bias of zeros would be right by luck."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        value = 0.3 * rng.standard_normal(v.shape)
        if "variance" in v.path:
            value = np.abs(value) + 0.5
        v.assign(value if keras.backend.is_float_dtype(v.dtype) else np.full(v.shape, 7))
    return model


def functional(shape: tuple[int | None, ...], *chain: Any, **kwargs: Any) -> Any:
    x = keras.Input(shape, name="x", **kwargs)
    y = x
    for layer in chain:
        y = layer(y)
    return randomised(keras.Model(x, y, name="net"))


def convolutional() -> Any:
    """Nested, with all that follows the mode, and any height and width."""
    inner = keras.Sequential(
        [layers.Conv2D(6, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.ReLU()], name="inner"
    )
    return functional(
        (None, None, 3),
        inner,
        layers.SpatialDropout2D(0.2, name="whole_maps"),
        layers.Conv2D(8, 3, groups=2, strides=2, padding="same", activation="gelu", name="grouped"),
        layers.Dropout(0.3, seed=5, name="drop"),
        layers.GaussianNoise(0.1, name="noise"),
        layers.BatchNormalization(center=False, scale=False, name="bare"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, name="head"),
    )


def text() -> Any:
    """An embedding, attention, recurrent layers, and a Dense over a sequence."""
    x = keras.Input((None,), name="tokens", dtype="int32")
    y = layers.Embedding(11, 8, name="embed")(x)
    y = y + layers.MultiHeadAttention(2, 4, dropout=0.1, name="attend")(y, y)
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both")(y)
    y, state = layers.GRU(6, return_sequences=True, return_state=True, dropout=0.2, name="gru")(y)
    y = layers.TimeDistributed(layers.Dense(3), name="each")(layers.LayerNormalization(name="norm")(y))
    return randomised(keras.Model(x, {"steps": y, "state": layers.SimpleRNN(4, name="rnn")(y) + state[:, :4]}))


class Subclassed(keras.Model):  # type: ignore[misc]
    """Several arguments, a weight of its own, one that nothing reads, a layer called twice, an input as an output."""

    def __init__(self) -> None:
        super().__init__(name="sub")
        self.dense = layers.Dense(5, name="dense")
        self.drop = layers.Dropout(0.5, name="drop")
        self.scale = self.add_weight(shape=(5,), name="scale", initializer="ones")
        self.unread = self.add_weight(shape=(2, 3), name="unread", initializer="zeros")
        self.frozen = layers.Dense(5, name="frozen", trainable=False)

    def call(self, a: Any, b: Any, training: bool | None = None) -> Any:
        y = self.drop(self.dense(a), training=training) * self.scale
        return y, [self.frozen(self.dense(b)), b]


def subclassed() -> Any:
    model = Subclassed()
    model(np.ones((2, 4), "float32"), np.ones((3, 4), "float32"))
    return randomised(model)


MODELS: dict[str, Callable[[], Any]] = {"convolutional": convolutional, "text": text, "subclassed": subclassed}
INPUTS: dict[str, Any] = {"subclassed": (keras.InputSpec(shape=(None, 4)), keras.InputSpec(shape=(None, 4)))}


def run(proto: Any, *inputs: Any) -> list[Any]:
    """ONNX Runtime's answers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = proto if isinstance(proto, str) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(zip((i.name for i in session.get_inputs()), inputs, strict=True))))


def close(mine: Any, keras_answer: Any, tolerance: float = 2e-5) -> None:
    for a, b in zip(mine, keras.tree.flatten(keras_answer), strict=True):
        b = np.asarray(keras.ops.convert_to_numpy(b))
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = np.max(np.abs(b), initial=1e-6)
        assert np.max(np.abs(a.astype("float64") - b.astype("float64")), initial=0.0) <= tolerance * scale


def initializers(proto: Any) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def ops(proto: Any) -> list[str]:
    return [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in proto.graph.node]


def attributes(proto: Any, op: str) -> list[dict[str, Any]]:
    return [
        {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in proto.graph.node if n.op_type == op
    ]
