"""A Keras model again in another floating dtype: rebuilt from its own config, with the same weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE  # the one place where Keras narrows
from keras.src.saving.serialization_lib import ObjectSharingScope

from .errors import UnsupportedError, first_line
from .inputspec import FLOATS

_MIXED = re.compile(r"mixed_(float16|bfloat16)")
_QUANTISED = re.compile(r"(int8|int4|float8|gptq|awq)\w*_from_\w+")


def with_dtype(model: Any, dtype: str, build: Callable[[Any], Any] | None = None) -> Any:
    """A copy of `model` that holds and computes floats in `dtype`: every dtype policy, explicit cast and input dtype of
    its config is exchanged, nested models and isomorph's own layers (with their graphs) included.

    build: calls the copy once, for a model that makes its variables then. Layers that are not registered with Keras are
    taken from `model` itself. UnsupportedError: a layer cannot be rebuilt from its config (a Lambda), or the copy has
    other variables than the model.
    """
    try:
        with ObjectSharingScope():
            config = _retyped(keras.saving.serialize_keras_object(model), dtype)
        with default_dtype(dtype), ObjectSharingScope():
            copy = keras.saving.deserialize_keras_object(config, custom_objects=_custom_objects(model))
            if build is not None and len(copy.variables) != len(model.variables):
                build(copy)
    except UnsupportedError:
        raise
    except Exception as error:  # Keras raises nearly every type for a config that does not describe its layer
        raise UnsupportedError(f"not rebuilt in {dtype}: {type(error).__name__}: {first_line(error)}") from error
    copy_weights(model, copy, dtype)
    return copy


@contextlib.contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """While open, what names no dtype has this one: layers made in a constructor, factories called in `call`, and, on
    the torch backend, numbers that a tensor is multiplied by; and float64 is kept (see `float64_kept`)."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        with float64_kept():
            yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@contextlib.contextmanager
def float64_kept() -> Iterator[None]:
    """While open, keras.ops compute float64 as float64 on every backend. On JAX and torch Keras otherwise turns it into
    float32 wherever it promotes dtypes (matmul, mean, var), also where JAX itself has 64 bits enabled. TensorFlow's
    leaky_relu has its slope as a float32 attribute."""
    before, kernel = dict(BIT64_TO_BIT32_DTYPE), keras.src.backend.nn.leaky_relu
    BIT64_TO_BIT32_DTYPE.update(float64="float64", complex128="complex128")
    keras.src.backend.nn.leaky_relu = _leaky_relu
    try:
        yield
    finally:
        BIT64_TO_BIT32_DTYPE.update(before)
        keras.src.backend.nn.leaky_relu = kernel


def _leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    x = keras.ops.convert_to_tensor(x)
    return keras.ops.where(x > 0, x, x * negative_slope)


def _retyped(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        if str(value.get("class_name", "")).startswith("Quantized") and "config" in value:
            raise UnsupportedError(f"not rebuilt in {dtype}: a layer is quantised")
        return {key: _retyped(item, dtype) for key, item in value.items() if key != "compile_config"}
    if isinstance(value, list | tuple):
        return type(value)(_retyped(item, dtype) for item in value)
    if not isinstance(value, str):
        return value
    if _QUANTISED.fullmatch(value):
        raise UnsupportedError(f"not rebuilt in {dtype}: a layer is quantised ({value})")
    if value in FLOATS or _MIXED.fullmatch(value):
        return dtype
    if value in ("complex64", "complex128"):
        return "complex128" if dtype == "float64" else "complex64"
    return value


def _custom_objects(model: Any) -> dict[str, Any]:
    """The model's own classes, and the functions its layers hold, by the names that a config may use."""
    found: dict[str, Any] = {}
    for layer in [model, *model._flatten_layers(include_self=False, recursive=True)]:
        kind = type(layer)
        if not kind.__module__.startswith("keras."):
            found[kind.__name__] = found[keras.saving.get_registered_name(kind)] = kind
        for held in vars(layer).values():
            if callable(held) and hasattr(held, "__name__") and not isinstance(held, type):
                module = str(getattr(held, "__module__", ""))
                if not module.startswith("keras.") and held.__name__ != "<lambda>":
                    found[held.__name__] = found[keras.saving.get_registered_name(held)] = held
    return found


def copy_weights(model: Any, copy: Any, dtype: str) -> None:
    """Give a copy that `with_dtype` made the model's values and trainability. UnsupportedError as `with_dtype`."""
    old, new = list(model.variables), list(copy.variables)
    shapes = [tuple(v.shape) for v in old], [tuple(v.shape) for v in new]
    if shapes[0] != shapes[1]:
        raise UnsupportedError(
            f"not rebuilt in {dtype}: the model has {len(old)} variables, its copy {len(new)}, or their shapes differ"
        )
    for mine, other in zip(old, new, strict=True):
        value = np.asarray(keras.ops.convert_to_numpy(mine))
        kept = keras.backend.standardize_dtype(other.dtype)
        if kept in FLOATS and kept != dtype:
            raise UnsupportedError(f"not rebuilt in {dtype}: {other.path} stays {kept}")
        other.assign(value.astype(kept) if kept != "bfloat16" else value)
        other.trainable = mine.trainable
    for layer in copy._flatten_layers(include_self=False, recursive=True):
        if hasattr(layer, "finalize_state"):  # Normalization computes with what it made of its variables
            layer.finalize_state()
