"""A function from arrays to arrays as a model: forward only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.convert.inputspec import FLOATS, parse_all
from isomorph.parity.runners.arrays import ArrayRunner, flatten, inputs_for, plain
from isomorph.parity.runners.base import About, PortInfo, Request
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.tolerance import Array

__all__ = ["FunctionRunner", "open_function"]

NO_GRADIENT = "a function of arrays has no gradients"


class FunctionRunner(ArrayRunner):
    """`function(*arrays) -> array, or a tuple, list or dict of arrays`. It may not write into its inputs."""

    def __init__(self, function: Callable[..., Any], about: About, dtype: str = "own") -> None:
        super().__init__(about, dtype)
        self._function = function

    def run(self, arrays: list[Array], request: Request) -> Any:
        """See `ArrayRunner`."""
        return self._function(*arrays)

    def to_float64(self) -> FunctionRunner:
        """The function on float64 arrays. UnsupportedError: it did not answer those in float64 when it was opened."""
        if "float64" in self._about.missing:
            raise UnsupportedError(self._about.missing["float64"])
        return FunctionRunner(self._function, self._about, "float64")


def open_function(spec: ModelSpec) -> Opened:
    """A callable of this process; the parameters it needs are its inputs.

    UsageError: neither example nor `--input` is given, or they do not fit the parameters.
    """
    function = spec.target
    names = _names(function, spec)
    ports = tuple(_port(name, array) for name, array in names.items())
    if spec.example is None:
        ports = tuple(PortInfo(s.name, s.dtype, None) for s in parse_all(spec.inputs))
        unknown = [p.name for p in ports if p.name not in names]
        if unknown or len(ports) != len(names):
            raise UsageError(f"the function takes {', '.join(names)}; --input gives {', '.join(p.name for p in ports)}")
        ports = tuple(sorted(ports, key=lambda p: list(names).index(p.name)))
    inputs = inputs_for(spec, ports)
    float64, reason = _answers_in_float64(function, inputs.arrays)
    missing = {"gradients": NO_GRADIENT} | ({} if float64 else {"float64": reason})
    about = About(
        "function", inputs.ports, modes=("eval",), gradients=False, float64=float64, sizes=inputs.sizes,
        missing=missing,
        precision=next((p.dtype for p in inputs.ports if p.dtype in FLOATS), "float32"),
    )  # fmt: skip
    return Opened(FunctionRunner(function, about), inputs.arrays, inputs.values)


def _names(function: Callable[..., Any], spec: ModelSpec) -> dict[str, Array | None]:
    """Input name -> its example, in the function's order."""
    given = spec.example
    if isinstance(given, Mapping):
        return {str(name): plain(value) for name, value in given.items()}
    count = len(given) if isinstance(given, tuple | list) else 1 if given is not None else None
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of C: no signature
        parameters = []
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if count is None and not spec.inputs:
        raise UsageError('a function says nothing of its inputs: give inputs=, or --input "x=float32[b,3]"')
    if count is None:
        return dict.fromkeys([s.name for s in parse_all(spec.inputs)] if not own else own[: len(spec.inputs)])
    arrays = [plain(value) for value in (given if isinstance(given, tuple | list) else [given])]
    names = [own[i] if i < len(own) else f"input_{i}" for i in range(count)]
    return dict(zip(names, arrays, strict=True))


def _port(name: str, array: Array | None) -> PortInfo:
    return PortInfo(name, "float32") if array is None else PortInfo(name, str(array.dtype), tuple(array.shape))


def _answers_in_float64(function: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[bool, str]:
    """Whether float64 inputs give float64 outputs, tried once."""
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    try:
        _, outputs = flatten(function(*wide))
    except UsageError:
        raise
    except Exception as error:  # any exception of the user's function
        return False, f"the function refuses float64: {type(error).__name__}: {str(error)[:200]}"
    narrow = sorted({str(a.dtype) for a in outputs if a.dtype.kind == "f"} - {"float64"})
    return not narrow, f"the function answers float64 in {', '.join(narrow)}" if narrow else ""
