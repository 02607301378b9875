"""`isomorph routes`: the converters as a graph, and the way from each format to each other one."""

from __future__ import annotations

import argparse
from typing import Any

from isomorph.convert.routes import CONVERTERS, FORMATS, routes

from .console import Console

SCHEMA = "isomorph.routes/1"


def run(options: argparse.Namespace, streams: Console) -> int:
    """Print them; 0."""
    document = _document()
    if options.json:
        streams.json(document)
        return 0
    steps = ((c["from"], c["to"], c["by"], ", ".join(c["keeps"]), _flags(c)) for c in document["converters"])
    streams.rows(("from", "to", "by", "keeps", "options"), steps)
    streams.line()
    ways = (
        (" -> ".join(r["formats"]), f"{r['cost']:g}", ", ".join(r["writes"]), _flags(r)) for r in document["routes"]
    )
    streams.rows(("way", "cost", "writes", "options"), ways)
    return 0


def _flags(row: dict[str, Any]) -> str:
    return " ".join(f"--{option}" for option in row["options"])


def _document() -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "status": "PASS",
        "exit_code": 0,
        "formats": [{"name": f.name, "reads": list(f.reads), "writes": list(f.writes)} for f in FORMATS.values()],
        "converters": [
            {
                "from": c.source, "to": c.target, "by": c.home.replace(":", "."), "cost": c.cost,
                "keeps": list(c.keeps), "options": list(c.options), "needs": list(c.needs),
            }
            for c in CONVERTERS
        ],
        "routes": [
            {
                "from": r.source, "to": r.target, "formats": list(r.formats), "cost": r.cost, "keeps": list(r.keeps),
                "writes": list(FORMATS[r.target].writes), "options": sorted(r.options),
            }
            for r in routes()
        ],
    }  # fmt: skip
