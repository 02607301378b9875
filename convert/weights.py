"""The two-way map between torch's names and Keras' variables. numpy only; framework arrays pass through `asarray`.

One torch tensor is one Keras variable; between them lies a `Transform` of transposes, reshapes and reordered blocks,
which moves elements and never computes, so push then pull is bit-identical, and what is right for a value is right for
its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ir import TensorType

Step = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Transform:
    """Steps from torch's array to Keras': ("transpose", perm, ()), ("reshape", new shape, old shape), or
    ("blocks", (axis, *order), ()): the axis is cut into len(order) equal blocks, and block k comes to be the old
    order[k]."""

    steps: tuple[Step, ...] = ()

    def to_keras(self, array: Any) -> np.ndarray:
        for step in self.steps:
            array = apply_step(step, array)
        return np.asarray(array)

    def to_torch(self, array: Any) -> np.ndarray:
        for step in self.inverse.steps:
            array = apply_step(step, array)
        return np.asarray(array)

    @property
    def inverse(self) -> Transform:
        """The steps from Keras' array to torch's."""
        return Transform(tuple(_inverse(step) for step in reversed(self.steps)))

    def to_data(self) -> list[Any]:
        return [[k, list(a), list(o)] for k, a, o in self.steps]

    @classmethod
    def from_data(cls, data: list[Any]) -> Transform:
        return cls(tuple((k, tuple(a), tuple(o)) for k, a, o in data))


def apply_step(step: Step, array: Any) -> Any:
    """One step of a `Transform` on a numpy array."""
    kind, argument, _ = step
    if kind == "transpose":
        return np.transpose(array, argument)
    if kind == "reshape":
        return np.reshape(array, argument)
    axis, *order = argument
    blocks = np.split(np.asarray(array), len(order), axis)
    return np.concatenate([blocks[i] for i in order], axis)


def _inverse(step: Step) -> Step:
    kind, argument, old = step
    if kind == "transpose":
        return kind, tuple(int(i) for i in np.argsort(argument)), ()
    if kind == "reshape":
        return kind, old, argument
    axis, *order = argument
    return kind, (axis, *(int(i) for i in np.argsort(order))), ()


@dataclass(frozen=True)
class ParamRef:
    """A parameter as a layer form sees it: its torch name and type, and how it is to lie in the Keras variable."""

    name: str
    type: TensorType
    transform: Transform = Transform()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as it lies in the Keras variable."""
        return self.transform.to_keras(np.broadcast_to(np.zeros(()), self.type.shape)).shape  # type: ignore[arg-type]

    def transposed(self, *perm: int) -> ParamRef:
        step: Step = ("transpose", tuple(perm), ())
        return ParamRef(self.name, self.type, Transform((*self.transform.steps, step)))

    def reshaped(self, *shape: int) -> ParamRef:
        step: Step = ("reshape", tuple(shape), self.shape)
        return ParamRef(self.name, self.type, Transform((*self.transform.steps, step)))


@dataclass(frozen=True)
class WeightEntry:
    """One tensor on both sides. `kind` is parameter, buffer or constant; `tied_to` names the entry that owns the
    variable.

    `location` is where the variable lives: layer names from the model inwards, then the attribute.
    """

    torch_name: str
    variable: Any
    kind: str
    trainable: bool
    tied_to: str | None
    transform: Transform
    location: tuple[str, ...]
    dtype: str

    def to_keras(self, array: Any) -> np.ndarray:
        """torch's array (value or gradient) as it lies in the Keras variable."""
        return self.transform.to_keras(array)

    def to_torch(self, array: Any) -> np.ndarray:
        """The Keras variable's array (value or gradient) as torch has it."""
        return self.transform.to_torch(array)

    def to_data(self) -> dict[str, Any]:
        return {
            "torch_name": self.torch_name,
            "kind": self.kind,
            "trainable": self.trainable,
            "tied_to": self.tied_to,
            "transform": self.transform.to_data(),
            "location": list(self.location),
            "dtype": self.dtype,
        }


def variable_at(model: Any, location: tuple[str, ...]) -> Any:
    """The variable at a location, in a model that was built or loaded."""
    *path, attribute = location
    for name in path:
        model = model.get_layer(name) if hasattr(model, "get_layer") else getattr(model, name)
    found: Any = model
    for part in attribute.split("."):
        found = (
            found[int(part)]
            if part.isdigit() and isinstance(found, (list, tuple))
            else found[part]
            if isinstance(found, dict)
            else getattr(found, part)
        )
    return found


def numpy_of(tensor: Any) -> np.ndarray:
    """A torch tensor, Keras variable or array as numpy (bfloat16 through ml_dtypes)."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import ml_dtypes
            import torch

            return np.asarray(tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return np.asarray(tensor.numpy())
    convert: Callable[[], Any] | None = getattr(tensor, "numpy", None)
    return np.asarray(convert() if convert is not None else tensor)
