"""Layers with torch's semantics, for the cases where Keras' own layer differs.

GroupedConv1D/2D/3D   Keras compiles grouped convolutions with XLA on TensorFlow; these split theirs
BatchNormalization    the running variance is torch's unbiased one; momentum=None is the cumulative average
InstanceNormalization the same for each sample by itself, where torch tracks its statistics
Recurrent             LSTM, GRU and RNN with every torch parameter as its own variable (recurrence.py computes)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .recurrence import MODES, parameter_shapes, recur

__all__ = [
    "BatchNormalization",
    "GroupedConv1D",
    "GroupedConv2D",
    "GroupedConv3D",
    "InstanceNormalization",
    "Recurrent",
]

register = keras.saving.register_keras_serializable(package="isomorph")


class _Grouped:
    """`convolution_op` as one plain convolution per group, concatenated: what a grouped convolution is."""

    groups: int

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        plain = super().convolution_op  # type: ignore[misc]
        pairs = zip(ops.split(inputs, self.groups, -1), ops.split(kernel, self.groups, -1), strict=True)
        return ops.concatenate([plain(x, w) for x, w in pairs], -1)


@register
class GroupedConv1D(_Grouped, keras.layers.Conv1D):  # type: ignore[misc]
    """keras.layers.Conv1D with groups > 1, channels last, without XLA."""


@register
class GroupedConv2D(_Grouped, keras.layers.Conv2D):  # type: ignore[misc]
    """keras.layers.Conv2D with groups > 1, channels last, without XLA."""


@register
class GroupedConv3D(_Grouped, keras.layers.Conv3D):  # type: ignore[misc]
    """keras.layers.Conv3D with groups > 1, channels last, without XLA."""


# -------------------------------------------------------------------------------------------------------- normalisation
def statistics_dtype(dtype: str) -> str:
    """Half precision is normalised in float32."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def moments(x: Any, axes: Sequence[int], keepdims: bool = False) -> tuple[Any, Any]:
    """Mean and biased variance over `axes`."""
    mean = ops.mean(x, axis=tuple(axes), keepdims=True)
    var = ops.mean(ops.square(x - mean), axis=tuple(axes), keepdims=keepdims)
    return mean if keepdims else ops.squeeze(mean, tuple(axes)), var


def scaled(x: Any, mean: Any, var: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    """(x - mean) / sqrt(var + epsilon) * weight + bias, in the fewest passes over `x`.

    It ends in a subtraction because Keras' TensorFlow `add` takes some broadcast operands for a bias of another axis.
    """
    scale = ops.rsqrt(var + epsilon)
    if weight is not None:
        scale = scale * weight
    shift = mean * scale if bias is None else mean * scale - bias
    return x * scale - shift


def fused(x: Any, gamma: Any, beta: Any, epsilon: float, moving: tuple[Any, Any] | None = None) -> tuple[Any, Any, Any]:
    """(normalised, mean, unbiased variance) over all axes of float32 `x` but the last, by TensorFlow's
    FusedBatchNormV3: by the batch's statistics, or by the `moving` ones (mean, variance).
    """
    import tensorflow as tf  # only ever reached on Keras' TensorFlow backend

    flat = x if len(x.shape) == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))
    gamma = tf.ones(x.shape[-1:], x.dtype) if gamma is None else gamma
    beta = tf.zeros(x.shape[-1:], x.dtype) if beta is None else beta
    mean, variance = moving or (tf.constant([], x.dtype), tf.constant([], x.dtype))
    y, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=moving is None
    )
    return y if len(x.shape) == 4 else tf.reshape(y, tf.shape(x)), mean, unbiased


@register
class BatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation over the last axis as torch.nn.BatchNorm does it.

    In train mode `moving_variance` moves towards the *unbiased* batch variance. `momentum` is Keras' (1 - torch's);
    None is the cumulative average over `num_batches_tracked` calls. `trainable=False` freezes gamma and beta only:
    statistics follow `training`, as in torch.

    tracked=False: no moving statistics; those of the batch are used in both modes.
    statistics: "mode" (the batch's in train mode, the moving ones in eval mode), "moving" or "batch" (always those).
    unbiased=False: `moving_variance` moves towards the batch's own variance, as in Keras.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float | None = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        tracked: bool = True,
        statistics: str = "mode",
        unbiased: bool = True,
        **config: Any,
    ) -> None:
        if axis != -1:
            raise ValueError(f"channels stand last here, got axis={axis}")
        super().__init__(
            axis=-1,
            momentum=0.0 if momentum is None else momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            **config,
        )
        self.cumulative = momentum is None
        self.tracked = tracked
        self.statistics = statistics if tracked else "batch"
        self.unbiased = unbiased

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[-1],)

        def weight(name: str, wanted: bool, initializer: Any, trainable: bool = True, **more: Any) -> Any:
            return (
                self.add_weight(name=name, shape=shape, initializer=initializer, trainable=trainable, **more)
                if wanted
                else None
            )

        self.gamma = weight(
            "gamma",
            self.scale,
            self.gamma_initializer,
            regularizer=self.gamma_regularizer,
            constraint=self.gamma_constraint,
        )
        self.beta = weight(
            "beta",
            self.center,
            self.beta_initializer,
            regularizer=self.beta_regularizer,
            constraint=self.beta_constraint,
        )
        self.moving_mean = weight("moving_mean", self.tracked, self.moving_mean_initializer, False, autocast=False)
        self.moving_variance = weight(
            "moving_variance", self.tracked, self.moving_variance_initializer, False, autocast=False
        )
        self.num_batches_tracked: Any = None
        if self.tracked:
            self.num_batches_tracked = self.add_weight(
                name="num_batches_tracked",
                shape=(),
                dtype="int64",
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
        self._reduction_axes = list(range(len(input_shape) - 1))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        dtype = statistics_dtype(keras.backend.standardize_dtype(inputs.dtype))
        x = ops.cast(inputs, dtype)
        gamma, beta = (None if w is None else ops.cast(w, dtype) for w in (self.gamma, self.beta))
        if self.statistics == "batch" or (self.statistics == "mode" and training):
            y, mean, variance = self._by_batch(x, gamma, beta)
            if self.tracked:
                self._track(ops.stop_gradient(mean), ops.stop_gradient(variance))
        else:
            moving = ops.cast(self.moving_mean, dtype), ops.cast(self.moving_variance, dtype)
            if self._has_kernel(x):
                y, *_ = fused(x, gamma, beta, self.epsilon, moving)
            else:
                y = scaled(x, *moving, gamma, beta, self.epsilon)
        return ops.cast(y, self.compute_dtype)

    def _has_kernel(self, x: Any) -> bool:
        """TensorFlow's fused kernel is three to five times as fast in a training step, and a fifth faster at inference;
        it knows float32 alone.
        """
        return bool(keras.backend.backend() == "tensorflow" and x.dtype == "float32")

    def _by_batch(self, x: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
        """(normalised, mean, the variance to follow) by the batch's statistics."""
        shape = ops.shape(x)
        count = 1
        for axis in self._reduction_axes:
            count = count * shape[axis]
        n = ops.cast(count, x.dtype)
        if self._has_kernel(x):
            y, mean, var = fused(x, gamma, beta, self.epsilon)
            return y, mean, var if self.unbiased else var * ((n - 1.0) / n)
        mean, var = moments(x, self._reduction_axes)
        y = scaled(x, mean, var, gamma, beta, self.epsilon)
        return y, mean, var * (n / (n - 1.0)) if self.unbiased else var

    def _track(self, mean: Any, variance: Any) -> None:
        seen = self._count()
        keep = 1.0 - 1.0 / ops.cast(seen, mean.dtype) if self.cumulative else self.momentum
        for variable, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.cast(variable, new.dtype)
            variable.assign(ops.cast(old * keep + new * (1.0 - keep), variable.dtype))

    def _count(self) -> Any:
        self.num_batches_tracked.assign(self.num_batches_tracked + 1)
        return self.num_batches_tracked

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.cumulative:
            config["momentum"] = None
        return {**config, "tracked": self.tracked, "statistics": self.statistics, "unbiased": self.unbiased}


@register
class InstanceNormalization(BatchNormalization):
    """Instance normalisation that tracks statistics: torch.nn.InstanceNorm with track_running_stats=True.

    In train mode each sample is normalised by its own; the moving ones move towards their mean over the batch. torch
    never counts the batches here, so neither does this layer.
    """

    def _by_batch(self, x: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
        axes = self._reduction_axes[1:]
        mean, var = moments(x, axes, keepdims=True)
        count = 1
        for axis in axes:
            count = count * ops.shape(x)[axis]
        n = ops.cast(count, var.dtype)
        each = tuple(range(len(x.shape) - 1))
        unbiased = ops.mean(var, axis=each) * (n / (n - 1.0))
        return scaled(x, mean, var, gamma, beta, self.epsilon), ops.mean(mean, axis=each), unbiased

    def _count(self) -> Any:
        return self.num_batches_tracked


# ------------------------------------------------------------------------------------------------------------ recurrent
@register
class Recurrent(keras.layers.Layer):  # type: ignore[misc]
    """torch's nn.LSTM, nn.GRU and nn.RNN: stacked, bidirectional, with dropout between the layers.

    mode: "lstm", "gru", "rnn_tanh" or "rnn_relu". One variable per torch parameter, by torch's name and in torch's
    layout, in `self.<name>`: weight_ih_l0 (gates*hidden, input), weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_hr_l0
    (LSTM with projection), each again with the suffix _reverse, and for every layer l1, l2, ...

    Called on (x, h0) or, for "lstm", (x, h0, c0): x (batch, time, features) with `batch_first`, else (time, batch,
    features); states (layers*directions, batch, hidden), zeros where they are not given. Returns (output, h_n) or
    (output, h_n, c_n) in the same orders.
    """

    def __init__(
        self,
        mode: str,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        biases: bool = True,
        dropout: float = 0.0,
        proj_size: int = 0,
        seed: int | None = None,
        **config: Any,
    ) -> None:
        super().__init__(**config)
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, got {mode!r}")
        self.mode = mode
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.batch_first = batch_first
        self.biases = biases
        self.dropout = dropout
        self.proj_size = proj_size
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if dropout else None
        self.replay: list[Any] | None = None
        self.drawn: list[Any] | None = None  # as in GraphLayer

    def build(self, x_shape: Any, h_shape: Any = None, c_shape: Any = None) -> None:
        shapes_by_name = parameter_shapes(
            self.mode,
            int(x_shape[-1]),
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.biases,
            self.proj_size,
        )
        self.names = list(shapes_by_name)
        for name, shape in shapes_by_name.items():
            initializer = "zeros" if name.startswith("bias") else "glorot_uniform"
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=initializer))
        self.built = True

    def _mask(self, make: Any) -> Any:
        if self.replay is not None:
            return ops.convert_to_tensor(self.replay.pop(0))
        made = make(self.seed_generator)
        if self.drawn is not None:
            self.drawn.append(made)
        return made

    def call(self, x: Any, h: Any = None, c: Any = None, training: bool | None = None) -> Any:
        states = [
            self._zeros(x, size) if s is None else s for s, size in zip((h, c), self._state_sizes(), strict=False)
        ]
        weights = [ops.convert_to_tensor(getattr(self, name)) for name in self.names]
        return recur(
            self.mode,
            x,
            states,
            weights,
            self.biases,
            self.num_layers,
            self.dropout if training else 0.0,
            self.bidirectional,
            self.batch_first,
            self._mask,
        )

    def _state_sizes(self) -> tuple[int, ...]:
        """The widths of the states: h, and c for an LSTM."""
        return (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if self.mode == "lstm" else 1]

    def _zeros(self, x: Any, width: int) -> Any:
        lead = (self.num_layers * (2 if self.bidirectional else 1),)
        batch = () if len(x.shape) == 2 else (ops.shape(x)[0 if self.batch_first else 1],)
        return ops.zeros((*lead, *batch, width), dtype=x.dtype)

    def compute_output_spec(self, x: Any, h: Any = None, c: Any = None, training: bool | None = None) -> Any:
        directions = 2 if self.bidirectional else 1
        batch = () if len(x.shape) == 2 else (x.shape[0 if self.batch_first else 1],)
        sizes = self._state_sizes()
        states = [keras.KerasTensor((self.num_layers * directions, *batch, size), x.dtype) for size in sizes]
        return (keras.KerasTensor((*x.shape[:-1], sizes[0] * directions), x.dtype), *states)

    def get_config(self) -> dict[str, Any]:
        own = (
            "mode",
            "hidden_size",
            "num_layers",
            "bidirectional",
            "batch_first",
            "biases",
            "dropout",
            "proj_size",
            "seed",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
