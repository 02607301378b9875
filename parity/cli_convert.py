"""`isomorph convert`: load, convert, verify, write. The model is written only when the verification passes."""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all
from isomorph.convert.routes import Route, find, is_code, source_format, target_format
from isomorph.convert.whole import whole

from .cli import error_document
from .console import Console, json_text
from .progress import Stages

SCHEMA = "isomorph.convert/1"
BACKENDS = ("tensorflow", "jax", "torch")
# options that are for some ways only
ROUTED = ("weights", "layout", "mode", "dtype", "batchnorm", "opset", "trainable")
TO_TORCH = "model.keras, model.h5, model.onnx, or pkg.module:callable that makes a Keras model"
LAYOUTS = {"keras": ("keras", "torch"), "torch": ("torch", "source")}  # by the format of the step that takes it


def run(options: argparse.Namespace, streams: Console) -> int:
    """Convert as the options say and return the exit code. An error is raised, after the report says it."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "",
        "exit_code": 0,
        "source": options.source,
        "options": _options(options),
    }
    route = _route(options)
    document["options"]["to"] = route.target
    try:
        code, text = _convert(options, route, streams, document)
    except (Exception, KeyboardInterrupt) as error:
        failure = error_document(error)
        document |= {"status": failure["status"], "exit_code": failure["exit_code"], "error": failure}
        if options.report is not None:
            write_text(options.report, json_text(document))
        raise
    document["exit_code"] = code
    if options.report is not None:
        write_text(options.report, json_text(document))
    if options.json:
        streams.json(document)
    elif not options.quiet:
        streams.line(text)
    if code:
        streams.message(
            f"isomorph: error: the converted model is not proven to be the same model "
            f"({document['status']}); {options.output} was not written"
        )
    return code


def _options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("to", *ROUTED, "verify", "seed", "input")
    return {name: str(value) if isinstance(value := getattr(options, name), Path) else value for name in names}


def _route(options: argparse.Namespace) -> Route:
    """The way that the arguments ask for. UsageError: there is none, a file is in the way, an option is not for it."""
    target = target_format(options.to, options.output)
    source = source_format(options.source)
    check_output(options.output, "-o")
    files = {"SOURCE": Path(options.source), "-o": options.output}
    if options.report is not None:
        check_output(options.report, "--report")
        if options.report.resolve() == options.output.resolve():
            raise UsageError(f"--report {options.report}: that is the model's file")
        files["--report"] = options.report
    for option, path in files.items():
        if option != "SOURCE" and files["SOURCE"].is_file() and path.resolve() == files["SOURCE"].resolve():
            raise UsageError(f"{option} {path}: that is SOURCE's own file")
    if source == target == "torch" and is_code(options.source):
        source = "keras"  # what the code makes must be a Keras model then
    if source == target == "torch" and not options.source.endswith(".pt2") and ":" not in options.source:
        raise UsageError(f"SOURCE {options.source!r} is not understood; to torch it is {TO_TORCH}")
    route = find(source, target)
    _require_meaning(options, route)
    _require(route, options.verify != "none")
    if options.layout is not None:
        allowed = LAYOUTS[route.options["layout"].target]
        if options.layout not in allowed:
            raise UsageError(f"--layout {options.layout}: to {route.target} it is {' or '.join(allowed)}")
    return route


def _require_meaning(options: argparse.Namespace, route: Route) -> None:
    """UsageError: an option that no step of the way takes."""
    for option in ROUTED:
        if getattr(options, option) is not None and option not in route.options:
            raise UsageError(f"--{option} means nothing on the way {' -> '.join(route.formats)}")


def _require(route: Route, verified: bool) -> None:
    """UsageError: an optional package that the way, or its verification, needs is not installed."""
    needed = [name for leg in route.legs for name in leg.needs]
    if verified and "onnx" in route.formats:
        needed.append("onnxruntime")
    missing = [name for name in dict.fromkeys(needed) if find_spec(name) is None]
    if missing:
        way = " -> ".join(route.formats)
        raise UsageError(f"{way} needs {', '.join(missing)}: pip install 'isomorph[onnx]'")


def _convert(options: argparse.Namespace, route: Route, streams: Console, document: dict[str, Any]) -> tuple[int, str]:
    specs = parse_all(options.input)
    if "keras" in route.formats:
        _check_backend()
    with Stages(streams.err, show=not options.quiet) as stage:
        from .legs import load, step
        from .proof import prove

        model = load(route.source, options.source, options.weights, specs, options.seed, route.target, stage)
        if model.format != route.source:
            route = find(model.format, route.target)
            _require_meaning(options, route)
        options = _settled(options, route, model)
        document["options"]["mode"] = options.mode
        document["options"]["layout"] = options.layout
        document["options"]["batchnorm"] = options.batchnorm
        document["notes"] = list(model.notes)
        document["legs"] = []
        models, code, verdicts = [model], 0, list[str]()
        for leg in route.legs:
            own = {name: getattr(options, name) for name, taker in route.options.items() if taker is leg}
            entry: dict[str, Any] = {"from": leg.source, "to": leg.target}
            document["legs"].append(entry)
            start = time.perf_counter()
            made = step(leg, models[-1], own, stage)
            entry["report"], entry["seconds"] = dict(made.report), {"convert": _since(start)}
            document["notes"] += [note for note in made.notes if note not in document["notes"]]
            models.append(made)
            document["verdict"] = None
            if options.verify != "none":
                stage("verify")
                start = time.perf_counter()
                for proof in prove(_compared(models, route, options.dtype, stage, own), options.verify, options.seed):
                    said = proof.verdict.to_dict()
                    entry.setdefault("checks", []).append(
                        {"original": proof.original, "converted": proof.converted, "verdict": said}
                    )
                    document["verdict"], document["status"] = said, proof.verdict.status
                    verdicts.append(_headed(proof, len(route.legs) > 1))
                    code = proof.verdict.exit_code
                    if code:
                        break
                entry["seconds"]["verify"] = _since(start)
            if code:
                break
        made = models[-1]
        inputs, outputs = made.ports
        document["inputs"], document["outputs"] = [_port(p) for p in inputs], [_port(p) for p in outputs]
        document["report"] = dict(made.report)
        if options.verify == "none":
            document["status"] = "NOT_VERIFIED"
        if code == 0:
            stage("write")
            document["output"] = _write(made.subject, options.output)
    document["seconds"] = stage.seconds
    return code, _summary(document, verdicts)


def _settled(options: argparse.Namespace, route: Route, model: Any) -> argparse.Namespace:
    """The options with what they are when not given on this way."""
    settled = copy.copy(options)
    if "mode" in route.options:
        settled.mode = resolve_mode(options.mode, model.format == "torch" and model.modes == ("eval",))
    if "layout" in route.options and options.layout is None:
        # a file of ONNX has torch's axis order, wherever it came from; Keras its own
        settled.layout = "keras" if route.target == "keras" else "torch"
    if "batchnorm" in route.options and options.batchnorm is None:
        settled.batchnorm = "torch"
    return settled


def _compared(models: list[Any], route: Route, dtype: str | None, say: Any, own: dict[str, Any]) -> list[Any]:
    """The models as they are compared. With --dtype, a torch source in that precision; what becomes torch in its
    source's, as casting it is torch's own work; and what was cast with what is made of it."""
    if dtype is None:
        return models
    from .legs import in_dtype, step

    at, cast = len(models) - 2, route.legs.index(route.options["dtype"])
    if models[0].format == "torch":
        return [in_dtype(models[0], dtype), *models[1:]]
    if at == cast:
        return [*models[:-1], step(route.legs[at], models[-2], {**own, "dtype": None}, say)]
    return models if at < cast else models[1:]


def _headed(proof: Any, named: bool) -> str:
    return (
        f"{proof.original} against {proof.converted}: {proof.verdict.summary()}" if named else proof.verdict.summary()
    )


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _check_backend() -> None:
    """Before Keras is imported, which would raise from deep inside."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND={backend}: isomorph knows {', '.join(BACKENDS)}")
    if find_spec(backend) is None:
        raise UsageError(f"KERAS_BACKEND={backend}: {backend} is not installed; pip install {backend}")


def resolve_mode(asked: str | None, exported: bool) -> str:
    if exported and asked == "both":
        raise UsageError("--mode both: a .pt2 holds one mode only; leave --mode out, or give the code that built it")
    return "eval" if exported else asked or "both"


def _port(port: Any) -> dict[str, Any]:
    permutation = getattr(port, "permutation", None)
    return {
        "name": port.name,
        "dtype": str(port.dtype),
        "dims": [d if isinstance(d, int) else str(d) for d in port.dims or ()],
        "permutation": None if permutation is None else list(permutation),
    }


def check_output(path: Path, option: str, suffix: str = "") -> None:
    """Before the long work: the name fits and the directory takes files."""
    if suffix and path.suffix != suffix:
        raise UsageError(f"{option} {path}: the name must end in {suffix}")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a directory")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no directory {path.parent}")
    with _writing(path), tempfile.TemporaryFile(dir=path.parent):
        pass


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def _write(conversion: Any, path: Path) -> dict[str, Any]:
    with _writing(path):
        conversion.save(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def write_text(path: Path, text: str) -> None:
    """Whole or not at all. UsageError: the path cannot be written."""
    with whole(path) as file:
        file.write_text(text + "\n", encoding="utf-8")


def _summary(document: dict[str, Any], verdicts: list[str]) -> str:
    """What a person reads."""
    lines = []
    output = document.get("output")
    if output:
        lines.append(f"wrote {output['path']} ({_size(output['bytes'])})")
    keras = document["legs"][-1]["to"] == "keras"  # in the axis order of the model that was made
    lines += [f"  {kind:<7} {_shape(port, keras)}" for kind in ("inputs", "outputs") for port in document[kind]]
    lines += [f"  {line}" for line in _report(document["legs"][-1]["to"], document["report"])]
    seconds = document["seconds"]
    lines.append(f"  seconds {', '.join(f'{stage} {taken:.1f}' for stage, taken in seconds.items())}")
    lines += [f"note: {note}" for note in document["notes"]]
    if document["status"] == "NOT_VERIFIED":
        lines.append("not verified (--verify none)")
    return "\n".join([*lines, *verdicts])


def _report(target: str, report: dict[str, Any]) -> list[str]:
    if target == "onnx":
        parts = [f"opset {report['opset']}", _count(report["nodes"], "node"), _count(report["variables"], "variable")]
        return [f"graph   {', '.join(parts)}"]
    if target == "torch":
        layers = sum(report["layers"].values())
        parts = [
            _count(layers, "layer"),
            _count(report["functional"], "other op"),
            _count(report["parameters"], "weight"),
        ]
        return [f"graph   {', '.join(parts)}"]
    share, transposes = report["native_share"], report["transposes"]
    lines = [f"graph   {_count(report['nodes'], 'op')}, {share:.0%} native, {_count(transposes, 'transpose')} left"]
    if report.get("needs_layers"):
        lines.append("load    import isomorph.convert.layers; keras.models.load_model(...)")
    return lines


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shape(port: dict[str, Any], keras: bool) -> str:
    dims, axes = port["dims"], port["permutation"] if keras else None
    shown = dims if axes is None else [dims[axis] for axis in axes]
    return f"{port['name']} {port['dtype']} ({', '.join(map(str, shown))})"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
