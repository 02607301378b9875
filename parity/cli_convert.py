"""`isomorph convert`: load, convert, verify, write. The model is written only when the verification passes."""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all

from .cli import error_document
from .console import Console, json_text
from .progress import Stages

SCHEMA = "isomorph.convert/1"
BACKENDS = ("tensorflow", "jax", "torch")


def run(options: argparse.Namespace, streams: Console) -> int:
    """Convert as the options say and return the exit code. An error is raised, after the report says it."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "",
        "exit_code": 0,
        "source": options.source,
        "options": _options(options),
    }
    check_output(options.output, "-o", ".keras")
    if options.report is not None:
        check_output(options.report, "--report")
        if options.report.resolve() == options.output.resolve():
            raise UsageError(f"--report {options.report}: that is the model's file")
    try:
        code, text = _convert(options, streams, document)
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
    names = ("to", "layout", "mode", "dtype", "batchnorm", "verify", "seed", "weights", "input")
    return {name: str(value) if isinstance(value := getattr(options, name), Path) else value for name in names}


def _convert(options: argparse.Namespace, streams: Console, document: dict[str, Any]) -> tuple[int, str]:
    specs = parse_all(options.input)
    _check_backend()
    with Stages(streams.err, show=not options.quiet) as stage:
        stage("start")
        from isomorph.convert.sources import load_source

        stage("load")
        source = load_source(options.source, options.weights, specs, options.seed)
        mode = resolve_mode(options.mode, source.exported_program is not None)
        document["options"]["mode"] = mode
        document["notes"] = list(source.notes)
        stage("start")
        from isomorph.convert.api import to_keras

        stage("capture")
        conversion = to_keras(
            source.exported_program or source.module,
            source.args,
            source.kwargs,
            dynamic_shapes=source.dynamic_shapes,
            layout=options.layout,
            mode=mode,
            dtype=options.dtype,
            batchnorm=options.batchnorm,
            progress=stage,
        )
        document["inputs"] = [_port(port) for port in conversion.inputs]
        document["outputs"] = [_port(port) for port in conversion.outputs]
        document["report"] = dict(conversion.report)
        document["verdict"] = verdict = None
        if options.verify != "none":
            stage("verify")
            from .check import check

            reference, example = _in_dtype(source, options.dtype)
            verdict = check(
                reference,
                conversion,
                inputs=example,
                modes=("eval", "train") if conversion.mode == "both" else ("eval",),
                level=options.verify,
                seed=options.seed,
            )
            document["verdict"] = verdict.to_dict()
        document["status"] = "NOT_VERIFIED" if verdict is None else verdict.status
        code = 0 if verdict is None else verdict.exit_code
        if code == 0:
            stage("write")
            document["output"] = _write(conversion, options.output)
    document["seconds"] = stage.seconds
    return code, _summary(document, "" if verdict is None else verdict.summary())


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


def _in_dtype(source: Any, dtype: str | None) -> tuple[Any, tuple[Any, Any]]:
    """The module and its inputs as the verification takes them: with --dtype, copies in that floating dtype, so that
    the precision asked for is the precision compared."""
    example = (source.args, source.kwargs)
    if dtype is None:
        return source.module, example
    import torch

    wanted = getattr(torch, dtype)

    def cast(leaf: Any) -> Any:
        return leaf.to(wanted) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return copy.deepcopy(source.module).to(wanted), torch.utils._pytree.tree_map(cast, example)


def _port(port: Any) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": str(port.dtype),
        "dims": [d if isinstance(d, int) else str(d) for d in port.dims],
        "permutation": None if port.permutation is None else list(port.permutation),
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
    """Whole or not at all: to a temporary name in the same directory, then renamed."""
    with _writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            # mkstemp makes the file private; the report is an ordinary one.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def _summary(document: dict[str, Any], verdict: Any) -> str:
    """What a person reads."""
    lines = []
    output = document.get("output")
    if output:
        lines.append(f"wrote {output['path']} ({_size(output['bytes'])})")
    lines += [f"  {kind:<7} {_shape(port)}" for kind in ("inputs", "outputs") for port in document[kind]]
    lines += [f"  {line}" for line in _report(document["report"])]
    seconds = document["seconds"]
    lines.append(f"  seconds {', '.join(f'{stage} {taken:.1f}' for stage, taken in seconds.items())}")
    lines += [f"note: {note}" for note in document["notes"]]
    if document["status"] == "NOT_VERIFIED":
        lines.append("not verified (--verify none)")
    lines += [verdict] if isinstance(verdict, str) and verdict else list(verdict)
    return "\n".join(lines)


def _report(report: dict[str, Any]) -> list[str]:
    share, transposes = report["native_share"], report["transposes"]
    lines = [f"graph   {_count(report['nodes'], 'op')}, {share:.0%} native, {_count(transposes, 'transpose')} left"]
    if report.get("needs_layers"):
        lines.append("load    import isomorph.convert.layers; keras.models.load_model(...)")
    return lines


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shape(port: dict[str, Any]) -> str:
    dims, axes = port["dims"], port["permutation"]
    shown = dims if axes is None else [dims[axis] for axis in axes]
    return f"{port['name']} {port['dtype']} ({', '.join(map(str, shown))})"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
