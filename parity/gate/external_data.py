"""Which files an ONNX model takes its weights from: the locations of its external data, read from the protobuf itself.

Standard library only, as deployers verify without any framework. Only the fields that lead to a tensor are entered, all
others are skipped by their length, so that a model of 2 GB takes milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from isomorph.convert.errors import UsageError

__all__ = ["locations"]

# Message -> field number -> message, of onnx.proto: every way from ModelProto to a TensorProto.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
KEY, VALUE = 1, 2  # of StringStringEntryProto
LOCATION = b"location"
DEEPEST = 100  # messages inside messages; protobuf's own readers stop there
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the wire types in use


def locations(path: Path) -> tuple[str, ...]:
    """Where the external data of an .onnx lie, relative to its folder, with slashes, each once, sorted.

    UsageError: it is no readable ONNX file, or a location leads out of the folder. OSError: it cannot be read."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise UsageError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = {location.decode() for location in _entries(data, 0, len(data), "ModelProto", DEEPEST)}
            except (ValueError, IndexError) as error:
                raise UsageError(f"{path} is no readable ONNX file") from error
    home = path.parent.resolve()
    for location in found:
        there = (home / location).resolve()
        if not location or "\\" in location or there == home or not there.is_relative_to(home):
            raise UsageError(f"{path}: its data lies outside its folder: {location!r}")
    return tuple(sorted(found))


def _entries(data: mmap.mmap, at: int, end: int, message: str, depth: int) -> Iterator[bytes]:
    if not depth:
        raise ValueError("nested too deep")
    known = MESSAGES[message]
    for number, start, stop in _fields(data, at, end):
        inner = known.get(number)
        if inner == "StringStringEntryProto":
            pair = {n: data[a:b] for n, a, b in _fields(data, start, stop)}
            if pair.get(KEY) == LOCATION:
                yield pair.get(VALUE, b"")
        elif inner is not None:
            yield from _entries(data, start, stop, inner, depth - 1)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every field with a length; those of a fixed or variable width are passed over."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            at = _varint(data, at)[1]
        elif kind == FIXED64:
            at += 8
        elif kind == FIXED32:
            at += 4
        elif kind == BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("a field goes beyond its message")
            yield tag >> 3, at, at + length
            at += length
        else:
            raise ValueError(f"wire type {kind}")
    if at > end:
        raise ValueError("a field goes beyond its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
