"""What a verdict says of an input: its figures, its values where they are few, a picture where it looks like one."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from isomorph.parity.compare import canonical
from isomorph.parity.tolerance import Array

__all__ = ["preview", "summary"]

SHOWN = 64  # elements that are listed
SMALLEST, LARGEST = 4, 256  # height and width of what is taken for an image
DRAWN = 64  # height and width of a preview, at most
COLOURS = (1, 3)


def summary(array: Array) -> dict[str, Any]:
    """See `Counterexample.inputs`."""
    flat = np.ravel(array)
    wide = canonical(flat).astype(np.float64) if flat.dtype.kind in "fiub" else np.zeros(0)
    finite = wide[np.isfinite(wide)]
    with np.errstate(over="ignore"):
        figures = (finite.min(), finite.max(), finite.mean()) if finite.size else (None, None, None)
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "nonzero": int(np.count_nonzero(flat)),
        "values": flat.tolist() if flat.size <= SHOWN else None,
        **{name: None if v is None else float(v) for name, v in zip(("min", "max", "mean"), figures, strict=True)},
        "preview": preview(array),
    }


def preview(array: Array) -> dict[str, Any] | None:
    """The first image of a batch, {"width", "height", "channels", "low", "high", "pixels"}; None where it is none.

    An image has three axes or more, of which the last are [1 or 3, height, width], [height, width, 1 or 3] or else
    [height, width], each of 4 to 256. pixels: base64 of bytes, rows from the top, channels last, low as 0 and high as
    255; averaged to at most 64 x 64. What is not finite is drawn as low.
    """
    image = _image(array)
    if image is None:
        return None
    shown = np.where(np.isfinite(image), image, np.nan)
    if np.isnan(shown).all():
        return None
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    small = _averaged(np.nan_to_num(shown, nan=low))
    span = high / 2 - low / 2  # of halves: their difference may be beyond the largest float
    grey = (small / 2 - low / 2) / span if span > 0 else np.zeros(small.shape)
    pixels = np.clip(np.rint(255.0 * grey), 0, 255).astype(np.uint8)
    height, width, channels = pixels.shape
    return {
        "width": width, "height": height, "channels": channels, "low": low, "high": high,
        "pixels": base64.b64encode(pixels.tobytes()).decode("ascii"),
    }  # fmt: skip


def _image(array: Array) -> Array | None:
    """[height, width, channels] of the first element of every other axis."""
    if array.ndim < 3 or array.dtype.kind not in "fiub" or not array.size:
        return None
    wide: Array = canonical(array).astype(np.float64)
    first, second, third = wide.shape[-3:]
    lead = (0,) * (wide.ndim - 3)
    if third in COLOURS and wide.ndim > 3 and _is_side(first) and _is_side(second):
        return np.asarray(wide[lead])
    if not (_is_side(second) and _is_side(third)):
        return None
    if first in COLOURS and wide.ndim > 3:
        return np.asarray(np.moveaxis(wide[lead], 0, -1))
    return np.asarray(wide[(*lead, 0)][..., None])


def _is_side(size: int) -> bool:
    return SMALLEST <= size <= LARGEST


def _averaged(image: Array) -> Array:
    """Blocks of pixels as one, so that neither side is longer than `DRAWN`."""
    for axis in (0, 1):
        block = -(-image.shape[axis] // DRAWN)
        at = np.arange(0, image.shape[axis], block)
        sizes = np.diff(np.append(at, image.shape[axis]))
        shape = [1, 1, 1]
        shape[axis] = len(at)
        image = np.add.reduceat(image / sizes.max(), at, axis=axis) * (sizes.max() / sizes).reshape(shape)
    return image
