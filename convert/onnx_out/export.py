"""`OnnxExport`: a checked ONNX model and what is known of it. What `to_onnx` returns."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.whole import whole

__all__ = ["LIMIT", "OnnxExport", "is_large", "write"]

LIMIT = 2**31 - 1  # bytes of a protobuf message
ALIGNED = 4096  # a tensor in the data file begins at a multiple, so that it can be mapped
SMALL = 1024  # bytes up to which a tensor stays in the model file


@dataclass
class OnnxExport:
    """proto: onnx.ModelProto with every variable as an initializer under its Keras path.

    report: "variables" (how many), "opset", "versions", "nodes", "transposes" (of activations), "kernel_transposes" (of
    what is computed from variables alone), "markers" (ops kept whole, by kind), "optimised" and "tried" (what did not
    work before), "train_only" (layers that act in train mode and were not kept), "parity" (against Keras), "seconds" by
    stage.
    """

    proto: Any
    report: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Write a `.onnx` file, whole or not at all; with `external_data` (None: only above 2 GB) the large tensors go
        to `<name>.onnx.data` beside it. UsageError: the path cannot be written."""
        path = Path(path)
        if path.suffix != ".onnx":
            raise UsageError(f"{path}: the model is written as an .onnx file; give a name that ends in .onnx")
        if external_data is False and is_large(self.proto):
            raise UsageError(f"{path}: the model is above 2 GB, which a single file cannot hold")
        with whole(path) as file:
            write(self.proto, file, external_data)


def write(proto: Any, path: Path, external_data: bool | None = None) -> None:
    """The proto at `path`, and its large tensors at `<path>.data` where asked for or needed. `proto` stays as it is."""
    if external_data or (external_data is None and is_large(proto)):
        proto = _beside(proto, path.with_name(f"{path.name}.data"))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def is_large(proto: Any) -> bool:
    """Whether it may be no single message. protobuf itself cannot say how large such a message is."""
    return sum(len(t.raw_data) for t in proto.graph.initializer) > LIMIT - 2**24


def _beside(proto: Any, path: Path) -> Any:
    """A copy of the proto whose large initializers lie in the file `path`."""
    import onnx

    light = onnx.ModelProto()
    for name, value in proto.ListFields():
        if name.name != "graph":
            _copy(light, name.name, value)
    for name, value in proto.graph.ListFields():
        if name.name != "initializer":
            _copy(light.graph, name.name, value)
    with open(path, "wb") as file:
        for old in proto.graph.initializer:
            new = light.graph.initializer.add()
            if len(old.raw_data) <= SMALL:
                new.CopyFrom(old)
                continue
            file.write(b"\0" * (-file.tell() % ALIGNED))
            new.name, new.data_type, new.data_location = old.name, old.data_type, onnx.TensorProto.EXTERNAL
            new.dims.extend(old.dims)
            for key, text in (("location", path.name), ("offset", file.tell()), ("length", len(old.raw_data))):
                new.external_data.add(key=key, value=str(text))
            file.write(old.raw_data)
    return light


def _copy(message: Any, name: str, value: Any) -> None:
    target = getattr(message, name)
    if hasattr(target, "MergeFrom"):  # repeated or a message
        target.MergeFrom(value)
    else:
        setattr(message, name, value)
