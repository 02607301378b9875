"""The counterexample and the module where the models part, as rows for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isomorph.parity.report.html_png import png_uri
from isomorph.parity.report.html_text import count, figure, finite

__all__ = ["counterexample", "located"]

AROUND = 8  # modules listed before and after the one where they part
WIDE = 16  # values in a row of a table
STATISTICS = ("min", "max", "mean")


def counterexample(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The smallest example, an array each: its statistics, its picture, its values."""
    if said is None:
        return None
    case = said["case"]
    drawn = [("distribution", case["distribution"]), ("seed", str(case["seed"]))]
    drawn += [(f"axis {name}", str(size)) for name, size in case.get("sizes", ())]
    drawn += [("weights", case["weights"])] if case.get("weights", "own") != "own" else []
    how = "its values were simplified" if said["shrunk"] else "as it was drawn"
    return {
        "what": f"{said['quantity']} {said['name']}: {said['kind']}, {said['mode']} mode",
        "how": f"{how}; {count(said['runs'])} runs were taken to shrink it",
        "drawn": drawn,
        "arrays": [_array(name, array) for name, array in said["inputs"].items()],
    }


def _array(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    shape = said["shape"]
    statistics = [(key, figure(said[key], 4)) for key in STATISTICS if said.get(key) is not None]
    values, picture = said.get("values"), said.get("preview")
    return {
        "name": name,
        "type": f"{said['dtype']}[{', '.join(map(str, shape))}]",
        "statistics": [*statistics, ("not zero", count(said["nonzero"]))],
        "rows": _table(values, shape) if values is not None else [],
        "elided": values is None,
        "picture": None if picture is None else _picture(picture),
    }


def _picture(preview: Mapping[str, Any]) -> dict[str, Any]:
    low, high = figure(preview["low"], 4), figure(preview["high"], 4)
    scale = max(1, min(16, 256 // max(preview["width"], preview["height"], 1)))
    return {
        "uri": png_uri(preview),
        "width": preview["width"] * scale,
        "height": preview["height"] * scale,
        "range": f"every element is {low}" if low == high else f"black is {low}, white is {high}",
    }


def _table(values: Sequence[Any], shape: Sequence[int]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """(index, [(value, whether it is not zero)]) of each row: the last axis lies across, cut where it is long."""
    last = shape[-1] if shape else 1
    across = max(1, min(last, WIDE))
    rows = []
    for start in range(0, len(values), max(1, last)):
        for offset in range(0, last, across):
            at = start + offset
            cells = values[at : min(at + across, start + last)]
            rows.append((_index(at, shape, across < last), [(_value(cell), _value(cell) != "0") for cell in cells]))
    return rows


def _index(at: int, shape: Sequence[int], cut: bool) -> str:
    """The position of a row's first element; its last axis is ":" where the whole of it lies in the row."""
    found: list[str] = []
    for length in reversed(shape):
        at, index = divmod(at, max(1, length))
        found.insert(0, str(index))
    if found and not cut:
        found[-1] = ":"
    return f"[{', '.join(found)}]"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    return f"{finite(value):.6g}" if not isinstance(value, Sequence) or isinstance(value, str) else str(value)


def located(said: Mapping[str, Any]) -> dict[str, Any]:
    """The module, the likely causes, and the errors of the modules around it."""
    modules = said["modules"]
    at = next((i for i, m in enumerate(modules) if m["path"] == said["module"]), len(modules))
    first, last = max(0, at - AROUND), min(len(modules), at + AROUND + 1)
    return {
        "direction": said["direction"],
        "module": said["module"] or "the model itself",
        "kind": said["kind"],
        "counterpart": said["counterpart"],
        "causes": said["causes"],
        "note": said["note"],
        "before": first,
        "after": len(modules) - last,
        "modules": [_module(m, m["path"] == said["module"]) for m in modules[first:last]],
    }


def _module(said: Mapping[str, Any], here: bool) -> dict[str, Any]:
    call = f" (call {said['call'] + 1})" if said["call"] else ""
    return {
        "path": (said["path"] or "(model)") + call, "kind": said["kind"], "here": here,
        "local": figure(said["local"]), "accumulated": figure(said["accumulated"]),
        "tolerance": figure(said["tolerance"]),
        "bad": {key: _beyond(said[key], said["tolerance"]) for key in ("local", "accumulated")},
    }  # fmt: skip


def _beyond(error: Any, tolerance: Any) -> bool:
    return error is not None and not finite(error) <= finite(tolerance)
