"""What the file says about where it came from: `metadata_props["isomorph"]`, described in docs/way_back.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from isomorph.convert.conversion import Conversion

from .trace import Traced

__all__ = ["KEY", "provenance", "set_provenance", "versions"]

KEY = "isomorph"
SCHEMA = 1


def versions(*names: str) -> dict[str, str]:
    """The installed versions of these packages."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(traced: Traced, ports: Mapping[str, Any], conversion: Conversion | None) -> dict[str, Any]:
    """The JSON-able whole."""
    named = versions("isomorph", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")
    torch = (conversion.report.get("versions") or {}).get("torch") if conversion is not None else None
    if torch:
        named["torch"] = torch
    names = list(traced.inputs), list(traced.outputs)
    constants = {} if conversion is None else {str(i): v for i, v in conversion.output_constants.items()}
    permutations: tuple[Any, ...] = (
        tuple([p.permutation for p in side] for side in (conversion.inputs, conversion.outputs))
        if conversion is not None
        else tuple([None] * len(side) for side in names)
    )
    inputs, outputs = (
        [
            {
                "name": name,
                "dtype": ports[name][0],
                "dims": list(ports[name][1]),
                "permutation": None if p is None else list(p),
            }
            for name, p in zip(side, own, strict=True)
        ]
        for side, own in zip(names, permutations, strict=True)
    )
    return {
        "schema": SCHEMA,
        "source": "keras" if conversion is None else "torch",
        "versions": named,
        "inputs": inputs,
        "outputs": outputs,
        "output_structure": traced.structure if conversion is None else conversion.output_structure,
        **({"output_constants": constants} if constants else {}),  # leaves of the structure that are no tensors
        "variables": _variables(traced, conversion),
        "layers": {path: traced.marks.layers[path] for path in sorted(traced.marks.layers)},
    }


def _variables(traced: Traced, conversion: Conversion | None) -> dict[str, Any]:
    owners: dict[int, Any] = {}
    tied: dict[str, list[str]] = {}
    for e in conversion.weights if conversion is not None else ():
        if e.tied_to is None:
            owners.setdefault(id(e.variable), e)
        else:
            tied.setdefault(e.tied_to, []).append(e.torch_name)
    found = {}
    kept = None if conversion is None else conversion.report.get("persistent")
    for name, variable in traced.values.items():
        entry = owners.get(id(variable))
        kind = entry.kind if entry is not None else "parameter" if name in traced.parameters else "buffer"
        kind = "constant" if name in traced.seeds else kind  # no tensor of a torch module: torch has one generator
        found[name] = {
            "kind": kind,
            "trainable": bool(variable.trainable),
            "dtype": str(variable.dtype),
            "torch_name": None if entry is None or entry.kind == "constant" else entry.torch_name,
            "tied": [] if entry is None else tied.get(entry.torch_name, []),
            "transform": None if entry is None else entry.transform.to_data(),
            "persistent": entry is None or kept is None or entry.kind != "buffer" or entry.torch_name in kept,
        }
    return found


def set_provenance(proto: Any, data: Mapping[str, Any]) -> None:
    proto.metadata_props.add(key=KEY, value=json.dumps(data, sort_keys=True))
