"""`isomorph ops [SOURCE]`: the table of supported ops; with a source, the ops that it needs and that have no rule."""

from __future__ import annotations

import argparse
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all
from isomorph.convert.routes import source_format

from .cli import gap_document
from .cli_convert import resolve_mode
from .console import Console

SCHEMA = "isomorph.ops/1"


def run(options: argparse.Namespace, streams: Console) -> int:
    """Print the table, 0; or what SOURCE lacks, 0 when that is nothing and 3 otherwise."""
    if options.onnx:
        if options.source is not None:
            raise UsageError("--onnx is the table of ONNX ops; it takes no SOURCE")
        return _print_onnx(options.json, streams)
    if options.source is None:
        return _print_table(options.json, streams)
    return _print_missing(options, streams)


def _print_table(in_json: bool, streams: Console) -> int:
    from isomorph.convert.rules.registry import LAYER_FORMS, load_rules

    rules = sorted(load_rules().values(), key=lambda rule: (rule.family, rule.key))
    rows = [{"op": r.key, "family": r.family, "layout": r.layout.value, "layer": r.key in LAYER_FORMS} for r in rules]
    if in_json:
        streams.json({"schema": SCHEMA, "status": "PASS", "exit_code": 0, "ops": rows})
        return 0
    shown = ((r["family"], r["op"], r["layout"], "a Keras layer" if r["layer"] else "keras.ops") for r in rows)
    streams.rows(("family", "op", "layout", "becomes"), shown)
    streams.line(f"{len(rows)} ops have a rule; others are tried through their decompositions into these")
    return 0


def _print_onnx(in_json: bool, streams: Console) -> int:
    from isomorph.convert.onnx_in.registry import load_rules, rules

    load_rules()
    rows = [
        {"domain": rule.domain or "ai.onnx", "op": rule.op, "since": rule.since, "family": _family(rule.function)}
        for rule in rules()
    ]
    if in_json:
        streams.json({"schema": SCHEMA, "status": "PASS", "exit_code": 0, "onnx": rows})
        return 0
    streams.rows(("domain", "op", "since", "family"), ([*row.values()] for row in rows))
    ops = {(row["domain"], row["op"]) for row in rows}
    streams.line(f"{len(ops)} ops have a rule; a model gets the newest one that is not above its opset")
    return 0


def _family(function: Any) -> str:
    """The file that a rule is in."""
    return str(function.__module__).rpartition(".")[2]


def _print_missing(options: argparse.Namespace, streams: Console) -> int:
    specs = parse_all(options.input)
    if source_format(options.source) != "torch":
        raise UsageError(f"{options.source}: ops looks at PyTorch models; see ops --onnx for what ONNX may hold")
    from isomorph.convert.sources import load_source

    source = load_source(options.source, options.weights, specs, options.seed)
    from isomorph.convert.capture import Captured, capture, from_program
    from isomorph.convert.passes.pipeline import run_passes
    from isomorph.convert.rules.registry import load_rules
    from isomorph.convert.support import is_supported, missing

    load_rules()
    mode = resolve_mode(options.mode, source.exported_program is not None)
    gaps: dict[str, dict[str, Any]] = {}

    def captured(training: bool) -> Captured:
        if source.exported_program is not None:
            return from_program(source.exported_program, None, None, is_supported)
        return capture(source.module, source.args, source.kwargs, source.dynamic_shapes, training, is_supported)

    for training in (False, True) if mode == "both" else (False,):
        found = captured(training)
        for gap in missing(run_passes(found.graph, dict(found.tensors))):
            # An op that is missing in both modes stands at the same places in both.
            gaps.setdefault(gap.op, gap_document(gap))
    rows = sorted(gaps.values(), key=lambda row: (-row["count"], row["op"]))
    code = 3 if rows else 0
    if options.json:
        streams.json(
            {
                "schema": SCHEMA,
                "status": "UNSUPPORTED" if rows else "PASS",
                "exit_code": code,
                "source": options.source,
                "mode": mode,
                "missing": rows,
                "notes": list(source.notes),
            }
        )
        return code
    for note in source.notes:
        streams.line(f"note: {note}")
    if not rows:
        streams.line(f"{options.source}: every op has a rule")
        return 0
    streams.rows(("missing op", "count", "where"), ((r["op"], r["count"], "\n".join(r["where"])) for r in rows))
    noun = "1 op has" if len(rows) == 1 else f"{len(rows)} ops have"
    streams.message(f"isomorph: error: {options.source}: {noun} no rule and no decomposition")
    return code
