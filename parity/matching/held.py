"""The arrays that a model holds, and what their names say. numpy only, pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from isomorph.parity.drawing.strategies import round_to
from isomorph.parity.matching.solve_layout import fingerprint
from isomorph.parity.tolerance import Array

__all__ = ["Held", "Key", "normalised", "parents", "role", "tokens"]

Key = tuple[str, int, int]

_ROLES: Mapping[str, tuple[str, ...]] = {
    "variance": ("var", "variance"),
    "mean": ("mean",),
    "bias": ("bias", "beta"),
    "weight": ("weight", "kernel", "gamma", "scale", "embedding"),
}


@dataclass
class Held:
    """A parameter or buffer. dtype: as torch names it; the array may be wider. kind: "parameter" or "buffer". tied: the
    name of the same tensor that stands for it."""

    name: str
    array: Array
    dtype: str
    kind: str = "parameter"
    tied: str | None = None
    _rounded: dict[str, Array] = field(default_factory=dict, repr=False)
    _keys: dict[str, Key] = field(default_factory=dict, repr=False)

    @property
    def kept(self) -> str:
        """The dtype in which its values are compared: its own, "int64" for integers and booleans."""
        return self.dtype if self.array.dtype.kind in "fc" else "int64"

    def at(self, dtype: str) -> Array:
        """The values as an array of `dtype` would hold them, in float32 or float64, or int64."""
        if dtype not in self._rounded:
            self._rounded[dtype] = self._at(dtype)
        return self._rounded[dtype]

    def _at(self, dtype: str) -> Array:
        if self.array.dtype.kind not in "fc":
            return self.array.astype(np.int64)
        if self.array.dtype.kind == "c" or dtype.startswith("complex"):
            return self.array.astype(np.complex128)
        if dtype in ("float16", "bfloat16"):
            return round_to(self.array, dtype)
        return self.array.astype(np.float64 if dtype == "float64" else np.float32, copy=False)

    def key(self, dtype: str) -> Key:
        """What arrays of the same values in whatever order have in common."""
        if dtype not in self._keys:
            array = self.at(dtype)
            self._keys[dtype] = (array.dtype.kind, array.size, fingerprint(array))
        return self._keys[dtype]


@cache
def tokens(name: str) -> tuple[str, ...]:
    """The parts of a name: "Block_1/Dense/kernel:0" is block_1, dense, kernel."""
    return tuple(part for part in re.split(r"[./|]+", re.sub(r":\d+$", "", name.lower())) if part)


@cache
def normalised(name: str) -> str:
    """A name without what frameworks add and change: case, separators, ":0", serving prefixes."""
    stem = re.sub(r":\d+$", "", name.lower())
    stem = re.sub(r"^(serving_default_|args_\d+[_./]|inputs?[./])(?=.)", "", stem)
    return re.sub(r"[^a-z0-9]+", "", stem)


def parents(name: str) -> list[tuple[str, ...]]:
    """The modules a parameter is in, from the innermost; without the model itself."""
    parts = tokens(name)
    return [parts[:count] for count in range(len(parts) - 1, 0, -1)]


@cache
def role(name: str) -> str:
    """What a parameter is for by the last part of its name: "weight", "bias", "mean", "variance" or ""."""
    leaf = (tokens(name) or ("",))[-1]
    return next((kind for kind, words in _ROLES.items() if any(word in leaf for word in words)), "")
