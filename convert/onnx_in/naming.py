"""Names in torch: dotted, each part a legal attribute, none used twice."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable
from typing import Any

import torch

from .provenance import LAYER

__all__ = ["LEAVES", "Names", "anonymous", "numbered", "scope_of", "split"]

# What exporters call the weights of a layer; any other last part of a name belongs to the layer's own name.
_LEAVES = """weight bias kernel gamma beta moving_mean moving_variance running_mean running_var mean var embeddings W
B R w b scale alpha recurrent_kernel depthwise_kernel pointwise_kernel num_batches_tracked"""
LEAVES = frozenset(_LEAVES.split())
RESERVED = frozenset(dir(torch.nn.Module())) | {"constants"}
SCOPES = "pkg.torch.onnx.name_scopes"
_ANONYMOUS = re.compile(
    r"(onnx::\w+|val_?\d*|_?v?\d+|(?:.*[/.])?_?const(?:ant)?\w*|.*Constant.*|.*__\d+|lifted_tensor_\d+)", re.I
)
_WRAPPERS = ("StatefulPartitionedCall", "PartitionedCall", "__main__")


def split(name: str) -> list[str]:
    """The parts of a path with slashes or dots, as legal attribute names. A colon's number (":0") is dropped."""
    parts = [re.sub(r"\W", "_", p) for p in re.split(r"[/.]", _plain(name)) if p]
    return [_legal(p) for p in parts if p not in _WRAPPERS]


def _legal(part: str) -> str:
    return f"{part}_" if keyword.iskeyword(part) or part in RESERVED else part


def numbered(name: str, taken: Callable[[str], bool]) -> str:
    """The name, or the first of name_1, name_2, ... that is not taken."""
    found, number = name, 1
    while taken(found):
        found, number = f"{name}_{number}", number + 1
    return found


def anonymous(name: str) -> bool:
    """Whether an exporter made up the name of this value."""
    return not name or _ANONYMOUS.fullmatch(_plain(name)) is not None


def _plain(name: str) -> str:
    """Without TensorFlow's ":0"; of the names of fused ops, which TFLite joins by semicolons, the last."""
    return re.sub(r":\d+$", "", name.rpartition(";")[2])


def scope_of(node: Any) -> str:
    """The dotted path of the module that a node was in, as its exporter wrote it; "" where nothing says."""
    path = node.metadata_props.get(LAYER)
    if path:
        return ".".join(split(path))
    scopes = node.metadata_props.get(SCOPES)
    if scopes:
        try:
            found = ast.literal_eval(scopes)
            return ".".join(split(str(found[-2]))) if len(found) > 1 else ""
        except (ValueError, SyntaxError, IndexError, TypeError, RecursionError, MemoryError):
            return ""
    parts = split(_nested(node.name or ""))
    if parts and re.match(
        rf"{re.escape(node.op_type)}(_?\d+|_quant)?$|\w*Conv\dD\w*$|MatMul\w*$|BiasAdd\w*$|FusedBatchNorm\w*$",
        parts[-1],
    ):
        parts = parts[:-1]
    return ".".join(parts) if len(parts) > 1 or (node.name or "").startswith("/") else ""


def _nested(name: str) -> str:
    """TorchScript's exporter writes "/layer1/layer1.0/conv" for what is layer1.0.conv."""
    found: list[str] = []
    for part in name.split("/"):
        if found and found[-1] and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return "/".join(found)


class Names:
    """The names that are given. A parameter has no children, and a name is given once."""

    def __init__(self) -> None:
        self.leaves: set[str] = set()
        self.inner: set[str] = set()

    def is_free(self, name: str) -> bool:
        parts = name.split(".")
        above = {".".join(parts[:i]) for i in range(1, len(parts))}
        return name not in self.leaves and name not in self.inner and not above & self.leaves

    def take(self, name: str) -> str:
        """Give this name. Its parts above become modules."""
        parts = name.split(".")
        self.inner |= {".".join(parts[:i]) for i in range(1, len(parts))}
        self.leaves.add(name)
        return name

    def free(self, name: str) -> str:
        """A free name made from this one, which is given."""
        parts = name.split(".")
        for i in range(len(parts) - 1):
            while ".".join(parts[: i + 1]) in self.leaves:
                parts[i] += "_"  # a parameter has that name
        return self.take(numbered(".".join(parts), lambda found: not self.is_free(found)))
