"""What a file says of where it came from, `metadata_props["isomorph"]` (docs/way_back.md): read, and not trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from isomorph.convert.weights import Transform

__all__ = ["KEY", "LAYER", "Origin", "Variable", "origin_of"]

KEY = "isomorph"
LAYER = "isomorph.layer"  # key of a node's metadata: the Keras path of its layer
KINDS = ("parameter", "buffer", "constant")


@dataclass(frozen=True)
class Variable:
    """One initializer. torch_names: the name it had in torch and those tied to it, empty if it came from Keras.
    transform: from torch's array to the initializer. persistent: whether the state dict holds it."""

    kind: str
    trainable: bool
    torch_names: tuple[str, ...] = ()
    transform: Transform = field(default_factory=Transform)
    persistent: bool = True


@dataclass(frozen=True)
class PortOrigin:
    """permutation p: the file's array = the original's array.transpose(p); None where they are the same."""

    name: str
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Origin:
    """Empty for a third party's file. source: "keras", "torch" or ""."""

    source: str = ""
    variables: dict[str, Variable] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: tuple[PortOrigin, ...] = ()
    outputs: tuple[PortOrigin, ...] = ()
    output_structure: Any = None  # dicts, lists and the numbers of the leaves
    output_constants: dict[int, Any] = field(default_factory=dict)  # leaves that are no tensors
    note: str = ""

    @property
    def is_torch(self) -> bool:
        return self.source == "torch"


def origin_of(properties: dict[str, str]) -> Origin:
    """The provenance among a model's metadata. What is not as it should be is as if it were not there, with a note."""
    if KEY not in properties:
        return Origin()
    try:
        data = json.loads(properties[KEY])
        if data["schema"] != 1 or data["source"] not in ("keras", "torch"):
            raise ValueError(f"schema {data['schema']!r}")
        return Origin(
            data["source"],
            {str(name): _variable(held) for name, held in data["variables"].items()},
            {str(path): dict(held) for path, held in data.get("layers", {}).items()},
            tuple(_port(p) for p in data.get("inputs", ())),
            tuple(_port(p) for p in data.get("outputs", ())),
            _structure(data.get("output_structure")),
            {int(leaf): value for leaf, value in (data.get("output_constants") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Origin(note=f"what the file says of its origin cannot be read ({type(error).__name__}: {error})")


def _variable(data: dict[str, Any]) -> Variable:
    if data["kind"] not in KINDS:
        raise ValueError(f"kind {data['kind']!r}")
    own = data.get("torch_name")
    names = (own, *data.get("tied", ())) if own else ()
    if not all(isinstance(n, str) for n in names):
        raise ValueError("torch_name")
    return Variable(
        data["kind"],
        bool(data["trainable"]),
        tuple(names),
        Transform.from_data(data.get("transform") or []),
        bool(data.get("persistent", True)),
    )


def _structure(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _structure(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_structure(v) for v in data]
    if data is not None and not isinstance(data, int):
        raise ValueError("output_structure")
    return data


def _port(data: dict[str, Any]) -> PortOrigin:
    permutation = data.get("permutation")
    if permutation is not None and sorted(permutation) != list(range(len(permutation))):
        raise ValueError("permutation")
    return PortOrigin(str(data["name"]), None if permutation is None else tuple(permutation))
