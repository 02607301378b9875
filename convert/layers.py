"""The registered Keras layers a converted model may hold. Import this module before `keras.models.load_model`.

Weight        a variable as a tensor, where a parameter is an operand and not a layer's own
Buffer        the same for a buffer the model itself updates
SelectMode    the value of train mode or that of eval mode, by `training`
Holder        variables that no op reads, so that the whole state dict has a place
GraphLayer    a piece of the torch graph, interpreted at call time
BatchNormalization, Recurrent, ...   torch's semantics where Keras' own layer differs (nn_layers.py)
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .graph_layer import GraphLayer
from .nn_layers import *  # noqa: F403  registered layers; __all__ is theirs

__all__ = ["Buffer", "GraphLayer", "Holder", "SelectMode", "Weight"]


@keras.saving.register_keras_serializable(package="isomorph")
class Weight(keras.layers.Layer):  # type: ignore[misc]  # keras has no annotations
    """A variable of `shape` and `dtype`, handed out as a tensor. The input only anchors it in the Functional graph."""

    def __init__(self, shape: Any, dtype: str, trainable: bool = True, **config: Any) -> None:
        policy = dtype if dtype.startswith(("float", "bfloat")) else None
        super().__init__(dtype=policy, autocast=False, trainable=trainable, **config)
        self.shape = tuple(shape)
        self.value_dtype = dtype
        self.value = self.add_weight(
            shape=self.shape, dtype=dtype, initializer="zeros", trainable=trainable, name="value"
        )
        self.built = True

    def get_config(self) -> dict[str, Any]:
        base = super().get_config()
        return {
            "name": base["name"],
            "shape": list(self.shape),
            "dtype": self.value_dtype,
            "trainable": self.value.trainable,
        }

    def compute_output_spec(self, anchor: Any, *args: Any, **kwargs: Any) -> Any:
        return keras.KerasTensor(self.shape, self.value_dtype)

    def call(self, anchor: Any) -> Any:
        return ops.convert_to_tensor(self.value)


@keras.saving.register_keras_serializable(package="isomorph")
class Buffer(Weight):
    """A buffer the model updates: `layer(x)` reads it; `layer(x, new)` stores `new` and gives `x` back.

    `when` is "train", "eval" or "always": the modes in which the update happens.
    """

    def __init__(self, shape: Any, dtype: str, when: str = "train", **config: Any) -> None:
        config.pop("trainable", None)
        super().__init__(shape, dtype, trainable=False, **config)
        self.when = when

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "when": self.when}

    def compute_output_spec(self, anchor: Any, update: Any = None, training: bool | None = None) -> Any:
        return (
            keras.KerasTensor(self.shape, self.value_dtype)
            if update is None
            else keras.KerasTensor(anchor.shape, anchor.dtype)
        )

    def call(self, anchor: Any, update: Any = None, training: bool | None = None) -> Any:
        if update is None:
            return ops.convert_to_tensor(self.value)
        if self.when == "always" or (self.when == "train") == bool(training):
            self.value.assign(ops.stop_gradient(ops.cast(update, self.value_dtype)))
        return anchor


@keras.saving.register_keras_serializable(package="isomorph")
class SelectMode(keras.layers.Layer):  # type: ignore[misc]  # keras has no annotations
    """`layer(in_train, in_eval)`: the first in train mode, the second otherwise; same shape and dtype."""

    def __init__(self, **config: Any) -> None:
        config.setdefault("autocast", False)
        super().__init__(**config)
        self.built = True

    def compute_output_spec(self, in_train: Any, in_eval: Any, training: bool | None = None) -> Any:
        shape = tuple(a if a == b else None for a, b in zip(in_train.shape, in_eval.shape, strict=True))
        return keras.KerasTensor(shape, in_train.dtype)

    def call(self, in_train: Any, in_eval: Any, training: bool | None = None) -> Any:
        return in_train if training else in_eval


@keras.saving.register_keras_serializable(package="isomorph")
class Together(keras.layers.Layer):  # type: ignore[misc]  # keras has no annotations
    """`layer(x, other)` gives x, once `other` is computed: a normalisation nobody reads still moves its statistics."""

    def __init__(self, **config: Any) -> None:
        config.setdefault("autocast", False)
        super().__init__(**config)
        self.built = True

    def compute_output_spec(self, x: Any, other: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any, other: Any) -> Any:
        return x


@keras.saving.register_keras_serializable(package="isomorph")
class Holder(keras.layers.Layer):  # type: ignore[misc]  # keras has no annotations
    """Owns the tensors of torch's state dict that the forward pass never reads; hands its input on unchanged.

    entries: (torch name, shape, dtype, trainable) each. Like in torch, their gradient does not exist.
    """

    def __init__(self, entries: Any, **config: Any) -> None:
        config.setdefault("autocast", False)
        super().__init__(**config)
        self.entries = [[n, list(shape), dtype, bool(trainable)] for n, shape, dtype, trainable in entries]
        self.values = [
            self.add_weight(
                shape=tuple(shape), dtype=dtype, initializer="zeros", trainable=trainable, name=name.replace(".", "_")
            )
            for name, shape, dtype, trainable in self.entries
        ]
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "entries": self.entries}

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any) -> Any:
        return x
