"""Where Keras computes, and with which precision settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from isomorph.convert.errors import UsageError

__all__ = ["environment", "on", "prepare"]


def prepare(device: str) -> None:
    """TF32 off, memory growth on, and the wanted device there. UsageError: Keras' backend sees no such device."""
    backend = keras.backend.backend()
    count = _PREPARE[backend]() if backend in _PREPARE else 0
    kind, _, number = device.partition(":")
    if kind != "cpu" and int(number or 0) >= count:
        raise UsageError(f"device {device}: Keras' {backend} backend sees {count} GPU(s) here")


@contextlib.contextmanager
def on(device: str) -> Iterator[None]:
    """Tensors made inside are put on the device; where there is no GPU nothing needs to be said."""
    kind, _, number = device.partition(":")
    if kind == "cpu" and not _COUNT.get(keras.backend.backend(), lambda: 0)():
        yield
        return
    with keras.device(f"gpu:{number or 0}" if kind != "cpu" else "cpu:0"), _exact():
        yield


def environment() -> dict[str, str]:
    """Keras' version, backend and the settings that change numbers."""
    found = {"keras": str(keras.__version__), "keras_backend": str(keras.backend.backend())}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found["tensorflow_tf32"] = str(tf.config.experimental.tensor_float_32_execution_enabled())
    return found


def _tensorflow() -> int:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
    devices = tf.config.list_physical_devices("GPU")
    for device in devices:
        with contextlib.suppress(RuntimeError):  # already in use, then it is as it is
            tf.config.experimental.set_memory_growth(device, True)
    return len(devices)


def _jax() -> int:
    import jax

    jax.config.update("jax_enable_x64", True)  # without it float64 is silently float32
    return sum(device.platform == "gpu" for device in jax.devices())


def _torch() -> int:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.cuda.device_count()


def _tensorflow_count() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _jax_count() -> int:
    import jax

    return sum(device.platform == "gpu" for device in jax.devices())


def _torch_count() -> int:
    import torch

    return torch.cuda.device_count()


_PREPARE = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
_COUNT = {"tensorflow": _tensorflow_count, "jax": _jax_count, "torch": _torch_count}


@contextlib.contextmanager
def _exact() -> Iterator[Any]:
    """JAX on a GPU multiplies float32 in TF32 unless it is told otherwise."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    with jax.default_matmul_precision("highest"):
        yield
