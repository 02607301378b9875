"""What travels between a check and its worker processes: one value as one frame. Pure; numpy and safetensors only.

A frame is a prefix (magic, lengths of the two parts), a JSON header and a safetensors blob. The header holds the value
with its compound parts tagged (`["list", ...]`, `["tuple", ...]`, `["dict", [key, value], ...]`, `["Request", {...}]`)
and its arrays by number; the blob holds the arrays, bit for bit. Nothing that is read can run code.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from isomorph.parity.explaining.flow import TracedCall
from isomorph.parity.runners import base
from isomorph.parity.tolerance import Array

__all__ = ["PREFIX", "ProtocolError", "decode", "encode", "lengths"]

MAGIC = b"ISO1"
PREFIX = struct.Struct("<4sIQ")
RECORDS: Mapping[str, Any] = {
    cls.__name__: cls
    for cls in (
        base.About, base.ModuleTrace, base.ParameterInfo, base.Perturbation, base.PortInfo, base.Recorded,
        base.Request, base.Response, TracedCall,
    )
}  # fmt: skip
# safetensors has no complex128, and has had complex64 only since 0.6: complex numbers travel as pairs.
STORED = {"complex64": "float32", "complex128": "float64"}
PLAIN = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}


class ProtocolError(RuntimeError):
    """What came is no frame of this protocol: something else wrote to the pipe, or the two sides differ in version."""


def encode(value: Any) -> bytes:
    """One frame. value: None, bool, int, float, str, bytes, arrays, records (RECORDS), and lists, tuples
    and dicts of such. TypeError names what is none of these."""
    arrays: dict[str, Array] = {}
    header = json.dumps(_flatten(value, arrays)).encode()
    blob = safetensors.save(arrays) if arrays else b""
    return b"".join((PREFIX.pack(MAGIC, len(header), len(blob)), header, blob))


def lengths(prefix: bytes) -> tuple[int, int]:
    """The bytes of header and blob that follow a prefix. ProtocolError where it is none."""
    if len(prefix) != PREFIX.size or not prefix.startswith(MAGIC):
        raise ProtocolError(f"not a frame: it starts with {prefix[:16]!r}")
    _, header, blob = PREFIX.unpack(prefix)
    return header, blob


def decode(header: bytes, blob: bytes) -> Any:
    """The value of a frame; arrays are writable. ProtocolError where the parts do not fit each other."""
    try:
        arrays = safetensors.load(blob) if blob else {}
        return _rebuild(json.loads(header), arrays)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ProtocolError(f"not a frame of this version: {type(error).__name__}: {error}") from error


def _flatten(value: Any, arrays: dict[str, Array]) -> Any:
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _store(value, arrays)
    if isinstance(value, bytes):
        return ["bytes", _store(np.frombuffer(value, np.uint8), arrays)]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", *(_flatten(item, arrays) for item in value)]
    if isinstance(value, Mapping):
        return ["dict", *([_flatten(key, arrays), _flatten(item, arrays)] for key, item in value.items())]
    if type(value).__name__ in RECORDS:
        fields = {f.name: _flatten(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        return [type(value).__name__, fields]
    raise TypeError(f"an object of type {type(value).__name__} cannot be sent to a worker process")


def _store(value: Any, arrays: dict[str, Array]) -> Any:
    scalar = isinstance(value, np.generic)
    # in C order and native bytes: safetensors writes memory as it lies
    array = np.asarray(value, dtype=value.dtype.newbyteorder("="), order="C")
    if array.dtype.name not in PLAIN:
        raise TypeError(f"an array of dtype {array.dtype} cannot be sent to a worker process")
    stored = STORED.get(array.dtype.name, array.dtype.name)
    key = str(len(arrays))
    arrays[key] = array.reshape(-1).view(stored)
    return ["scalar" if scalar else "array", key, array.dtype.name, list(array.shape)]


def _rebuild(node: Any, arrays: Mapping[str, Array]) -> Any:
    if not isinstance(node, list):
        return node
    tag, rest = node[0], node[1:]
    if tag in ("array", "scalar"):
        key, dtype, shape = rest
        array = arrays[key].view(dtype).reshape(shape)
        if not array.flags.writeable:  # as older versions of safetensors give it
            array = array.copy()
        return array[()] if tag == "scalar" else array
    if tag == "bytes":
        return _rebuild(rest[0], arrays).tobytes()
    if tag == "dict":
        return {_rebuild(key, arrays): _rebuild(item, arrays) for key, item in rest}
    if tag in ("list", "tuple"):
        items = [_rebuild(item, arrays) for item in rest]
        return items if tag == "list" else tuple(items)
    return RECORDS[tag](**{name: _rebuild(item, arrays) for name, item in rest[0].items()})
