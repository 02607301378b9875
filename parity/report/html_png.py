"""A picture of an array as PNG, in a data URI. Standard library: the format is a header, zlib data and checksums."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = ["png_uri"]


def png_uri(preview: Mapping[str, Any]) -> str:
    """`preview` as in `Counterexample.inputs`: width, height, channels (1 or 3), pixels (base64 of uint8, HxWxC)."""
    width, height, channels = preview["width"], preview["height"], preview["channels"]
    pixels = base64.b64decode(preview["pixels"])
    row = width * channels
    lines = b"".join(b"\0" + pixels[at : at + row] for at in range(0, row * height, row))  # 0: no filter
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
