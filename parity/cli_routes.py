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
    from rich.table import Table

    steps = Table("from", "to", "by", "keeps", "options", box=None, pad_edge=False)
    for row in document["converters"]:
        flags = " ".join(f"--{option}" for option in row["options"])
        steps.add_row(row["from"], row["to"], row["by"], ", ".join(row["keeps"]), flags)
    streams.table(steps)
    streams.line()
    ways = Table("way", "cost", "writes", "options", box=None, pad_edge=False)
    for row in document["routes"]:
        flags = " ".join(f"--{option}" for option in row["options"])
        ways.add_row(" -> ".join(row["formats"]), f"{row['cost']:g}", ", ".join(row["writes"]), flags)
    streams.table(ways)
    return 0


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
