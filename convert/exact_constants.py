"""What a saved file keeps so that it can be cast to float64 and still be the original: the constants that were computed
at conversion, before they were rounded to the model's own dtype."""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import IsomorphError
from .inputspec import FLOATS
from .weights import WeightEntry, numpy_of

if TYPE_CHECKING:
    from .conversion import Conversion

FILE = "isomorph.constants.npz"
GRID = 2.0**-8  # multiples of it (masks, counts, halves) are exact in every dtype


def exact_constants(conversion: Conversion) -> dict[str, np.ndarray]:
    """Name -> float64 values, of the constants that rounding has changed. The model is emitted once more for it, only
    where a constant looks rounded; empty where that is not possible."""
    held = {e.torch_name: e for e in conversion.weights if e.kind == "constant" and e.dtype in FLOATS}
    rounded = {name: e for name, e in held.items() if e.dtype != "float64" and not _on_grid(numpy_of(e.variable))}
    if not rounded:
        return {}
    with contextlib.suppress(IsomorphError):
        wide = {e.torch_name: e for e in conversion.with_dtype("float64").weights if e.kind == "constant"}
        found = {}
        for name, entry in rounded.items():
            if name in wide and wide[name].location == entry.location:
                exact, own = numpy_of(wide[name].variable), numpy_of(entry.variable)
                if exact.shape == own.shape and not np.array_equal(exact, own.astype(np.float64), equal_nan=True):
                    found[name] = exact
        return found
    return {}


def _on_grid(array: np.ndarray) -> bool:
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    return bool(np.all(np.abs(finite) < 2.0**15) and np.all(finite / GRID == np.rint(finite / GRID)))


def to_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as an .npz; the same arrays give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue())
    return stream.getvalue()


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """What `to_bytes` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def assign(entries: tuple[WeightEntry, ...], exact: dict[str, Any]) -> None:
    """Give the constants of a model in float64 their exact values."""
    for entry in entries:
        if entry.kind == "constant" and entry.torch_name in exact:
            entry.variable.assign(exact[entry.torch_name])
