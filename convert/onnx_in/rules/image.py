"""Images from files, by Pillow, where it is installed."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ..operands import leaf
from ..registry import rule

MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


@rule("ImageDecoder", since=20)
def image_decoder(encoded: Any, *, pixel_format: str = "RGB") -> Any:
    if find_spec("PIL") is None:
        raise ValueError("ImageDecoder needs Pillow, which is not installed")
    if pixel_format not in MODES:
        raise ValueError(f"pixel_format is {pixel_format!r}")
    return decode_image(encoded, pixel_format)


@leaf
def decode_image(encoded: torch.Tensor, pixel_format: str) -> torch.Tensor:
    """The bytes of an image file as (height, width, channels); (0, 0, channels) where they are none."""
    images: Any = import_module("PIL.Image")
    try:
        with images.open(io.BytesIO(encoded.cpu().numpy().tobytes())) as image:
            pixels = np.array(image.convert(MODES[pixel_format]))
    except (OSError, SyntaxError, ValueError):  # what Pillow raises on bytes that are no image it knows
        pixels = np.zeros((0, 0, 3) if pixel_format != "Grayscale" else (0, 0), np.uint8)
    if pixel_format == "Grayscale":
        pixels = pixels[:, :, None]
    if pixel_format == "BGR":
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(pixels.copy()).to(encoded.device)
