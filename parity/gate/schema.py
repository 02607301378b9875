"""The JSON Schemas of what isomorph writes, made from the dataclasses themselves: docs/schema/.

    python -m isomorph.parity.gate.schema docs/schema        writes report-1.json and verdict-1.json again

They are of the draft 2020-12. Readers must ignore fields that they do not know: a version adds some without another
number. docs/schema/gate-verdict-v1.json, of the Statement of a gate, is written by hand. Standard library only.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .. import record, verdict

__all__ = ["of_report", "of_verdict"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}  # JSON has no such numbers
PLAIN: Mapping[Any, Any] = {str: {"type": "string"}, bool: {"type": "boolean"}, int: {"type": "integer"},
                            float: NUMBER, type(None): {"type": "null"}, Any: {}}  # fmt: skip


def of_verdict() -> dict[str, Any]:
    """Of `Verdict.to_dict()`, which `isomorph check --json` writes with more beside it."""
    defs: dict[str, Any] = {}
    return _document(verdict.SCHEMA, verdict.Verdict, _object(verdict.Verdict, defs), defs)


def of_report() -> dict[str, Any]:
    """Of `Record.to_dict()`: report.json."""
    defs: dict[str, Any] = {}
    body = _object(record.Record, defs)
    own = {"status": _type(record.Status, defs), "exit_code": {"type": "integer"}}
    body = {**body, "properties": {**own, **body["properties"]}, "required": [*own, *body["required"]]}
    judged = _object(verdict.Verdict, defs)
    said = {"properties": {"schema": {"const": verdict.SCHEMA}, **judged["properties"]},
            "required": ["schema", *judged["required"]]}  # fmt: skip
    defs["Verdict"] = {**judged, **said}
    defs["Result"]["properties"]["verdict"] = {"anyOf": [{"$ref": "#/$defs/Verdict"}, {"type": "null"}]}
    return _document(record.SCHEMA, record.Record, body, defs)


def _document(schema: str, kind: type, body: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "$schema": DIALECT,
        "title": schema,
        "description": _told(kind),
        "type": "object",
        "properties": {"schema": {"const": schema}, **body["properties"]},
        "required": ["schema", *body["required"]],
        "$defs": dict(sorted(defs.items())),
    }


def _object(kind: type[Any], defs: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.metadata.get("plain", True)]
    properties = {name: _type(hints[name], defs) for name in names}
    return {"description": _told(kind), "type": "object", "properties": properties, "required": names}


def _type(hint: Any, defs: dict[str, Any]) -> dict[str, Any]:
    """The schema of one annotation. TypeError: of a kind that nothing here is written as."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return dict(PLAIN[hint])
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(item, defs) for item in inside]}
    if origin is tuple and inside[-1] is Ellipsis:
        return {"type": "array", "items": _type(inside[0], defs)}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_type(item, defs) for item in inside], "minItems": len(inside)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type(inside[1], defs)}
    if is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in defs:
            defs[hint.__name__] = {}
            defs[hint.__name__] = _object(hint, defs)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    raise TypeError(f"no JSON is written for {hint!r}")


def _told(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def main(folder: Path) -> None:
    """Write both, for docs/."""
    for name, document in (("report-1.json", of_report()), ("verdict-1.json", of_verdict())):
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
