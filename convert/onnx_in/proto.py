"""An ONNX file opened without trusting it: parsed, its tensors measured, its data found inside its own folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from isomorph.convert.errors import UsageError, one_line

__all__ = ["attached_graphs", "body_nodes", "embed", "embed_tensor", "graphs", "nodes", "open_model", "parse"]
__all__ += ["require_tensors", "tensors"]

MAX_FILE = 2**31 - 1  # what protobuf can hold in one message
DEPTH = 24  # subgraphs inside subgraphs
MAX_ELEMENTS = 2**60  # of dims without their zeros: numpy's limit is near
BITS = {  # of an element in raw data
    **dict.fromkeys(("INT2", "UINT2"), 2),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    **dict.fromkeys(("INT8", "UINT8", "BOOL", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64"), 64),
    "COMPLEX128": 128,
}
NAMES = {number: name for name, number in TensorProto.DataType.items()}
_INT32 = ("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL", "FLOAT16", "BFLOAT16", "INT4", "UINT4", "INT2", "UINT2")
_FIELDS = {
    **dict.fromkeys(("FLOAT", "COMPLEX64"), "float_data"),
    **dict.fromkeys(("DOUBLE", "COMPLEX128"), "double_data"),
    **dict.fromkeys(("UINT32", "UINT64"), "uint64_data"),
    **dict.fromkeys(_INT32, "int32_data"),
    "INT64": "int64_data",
    "STRING": "string_data",
}


@dataclass(frozen=True)
class External:
    """Where a tensor's bytes lie: `file` exists and is inside the model's folder."""

    file: Path
    offset: int
    length: int


def open_model(path: Path) -> Any:
    """The ModelProto of a file; data that lies beside it is checked to be there and inside the folder, and not read.

    Raises UsageError: no such file, no ONNX model, tensors that are not what they say, data outside the folder.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
        if path.stat().st_size > MAX_FILE:
            raise UsageError(f"{path}: larger than 2 GiB; save the model with its weights as external data")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UsageError(f"{path}: cannot be read: {one_line(error)}") from error
    model = parse(data, str(path))
    require_tensors(model, path.parent, str(path))
    return model


def parse(data: bytes, where: str) -> Any:
    """The ModelProto that these bytes are. Raises UsageError."""
    if not data:
        raise UsageError(f"{where} cannot be read as an ONNX model: it is empty")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf raises several types
        raise UsageError(
            f"{where} cannot be read as an ONNX model: cut short, or no binary protobuf ({one_line(error, 120)})"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise UsageError(f"{where} cannot be read as an ONNX model: it has no graph")
    return model


def embed(model: Any, folder: Path, where: str) -> None:
    """Read the data that lies beside the model into it, after `require_tensors`."""
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            embed_tensor(tensor, folder, where)


def embed_tensor(tensor: Any, folder: Path, where: str) -> None:
    """The same for one tensor."""
    there = external(tensor, folder, where)
    try:
        with there.file.open("rb") as file:
            file.seek(there.offset)
            tensor.raw_data = file.read(there.length)
    except OSError as error:
        raise UsageError(f"{where}: its data cannot be read: {one_line(error)}") from error
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT


def require_tensors(model: Any, folder: Path | None, where: str) -> None:
    """Raise UsageError unless every tensor has the data that its dims and type ask for.

    folder: where external data may lie; None refuses it.
    """
    for tensor in tensors(model):
        named = f"{where}: the tensor {tensor.name!r}"
        size = _bytes(tensor, named)
        if tensor.data_location == TensorProto.EXTERNAL:
            if folder is None:
                raise UsageError(f"{named} keeps its data in another file: give the model as a path")
            there = external(tensor, folder, where)
            if size is None or there.length != size:
                raise UsageError(f"{named} needs {size} bytes and is given {there.length} of {there.file.name}")
        else:
            _require_data(tensor, size, named)


def external(tensor: Any, folder: Path, where: str) -> External:
    """Where the bytes of an external tensor lie. Raises UsageError: outside `folder`, missing, or beyond the file."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    location = stated.get("location", "")
    try:
        home = folder.resolve()
        file = (home / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(home):
            raise UsageError(f"{where}: refused, its data lies outside its folder: {location!r}")
        if not file.is_file():
            raise UsageError(f"{where}: its data file {location} is missing")
        size = file.stat().st_size
    except (OSError, ValueError, RuntimeError) as error:  # a null character; a loop of links
        raise UsageError(f"{where}: its data cannot be found: {one_line(error)}") from error
    numbers = [stated.get("offset", "0"), stated.get("length", "")]
    if not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers if n):
        raise UsageError(f"{where}: the tensor {tensor.name!r} lies at {numbers[0]!r} + {numbers[1]!r}: no numbers")
    offset = int(numbers[0] or 0)
    length = int(numbers[1]) if numbers[1] else size - offset
    if length < 0 or offset + length > size:
        raise UsageError(f"{where}: the tensor {tensor.name!r} goes beyond the end of {location} ({size} bytes)")
    return External(file, offset, length)


def _bytes(tensor: Any, named: str) -> int | None:
    """How many bytes the dims and the type ask for; None for strings."""
    kind = NAMES.get(tensor.data_type, "")
    if kind == "UNDEFINED":
        raise UsageError(f"{named} has no type")
    if kind not in BITS and kind != "STRING":
        raise UsageError(f"{named} has an unknown type ({kind or tensor.data_type})")
    elements = math.prod(d for d in tensor.dims if d)
    if any(d < 0 for d in tensor.dims) or elements > MAX_ELEMENTS or len(tensor.dims) > 64:
        raise UsageError(f"{named} has impossible dims {list(tensor.dims)[:8]}")
    return None if kind == "STRING" else -(-math.prod(tensor.dims) * BITS[kind] // 8)


def _require_data(tensor: Any, size: int | None, named: str) -> None:
    if tensor.HasField("segment"):
        raise UsageError(f"{named} is a segment of a tensor, which no ONNX file may hold any more")
    kind = NAMES[tensor.data_type]
    if tensor.HasField("raw_data"):
        if size is None:
            raise UsageError(f"{named} holds strings as raw bytes")
        found, wanted, unit = len(tensor.raw_data), size, "bytes"
    else:
        found = len(getattr(tensor, _FIELDS.get(kind, "int32_data")))
        wanted, unit = math.prod(tensor.dims), "elements"
        if size is not None and BITS[kind] < 8:
            wanted = size  # a byte of packed elements in each
        elif kind.startswith("COMPLEX"):
            wanted *= 2
    if found != wanted:
        raise UsageError(f"{named} has dims {list(tensor.dims)}: {wanted} {unit}, and holds {found}")


def graphs(model: Any) -> Iterator[Any]:
    """The graph and every subgraph of its nodes. Raises UsageError where they are nested too deeply."""
    yield from _below(model.graph)


def nodes(model: Any) -> Iterator[Any]:
    """Every node of the graph, its subgraphs and the model's own functions."""
    for body in (model.graph, *model.functions):
        yield from body_nodes(body)


def attached_graphs(node: Any) -> list[Any]:
    """The subgraphs of a node."""
    found = [a.g for a in node.attribute if a.HasField("g")]
    return found + [g for a in node.attribute for g in a.graphs]


def _below(graph: Any) -> Iterator[Any]:
    stack = [(graph, 0)]
    while stack:
        top, depth = stack.pop()
        if depth > DEPTH:
            raise UsageError(f"the model nests its subgraphs more than {DEPTH} deep")
        yield top
        stack += [(inner, depth + 1) for node in top.node for inner in attached_graphs(node)]


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor that holds data: initializers and attributes, everywhere."""
    held = [model.graph, *(g for node in nodes(model) for g in attached_graphs(node))]
    for graph in held:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    defaults = (a for f in model.functions for a in f.attribute_proto)
    for attribute in (*defaults, *(a for node in nodes(model) for a in node.attribute)):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparses = list(attribute.sparse_tensors)
        if attribute.HasField("sparse_tensor"):
            sparses.append(attribute.sparse_tensor)
        for sparse in sparses:
            yield from (sparse.values, sparse.indices)


def body_nodes(body: Any) -> Iterator[Any]:
    """The nodes of a graph or a function, and those of their subgraphs."""
    for node in body.node:
        yield node
        for graph in attached_graphs(node):
            for inner in _below(graph):
                yield from inner.node
