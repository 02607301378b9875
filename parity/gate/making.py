"""The two models of a task, ready to be checked: as they are, or converted now, by the steps of `isomorph convert`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all
from isomorph.convert.routes import Route, find, is_code, source_format
from isomorph.parity.gate.policy import ModelEntry
from isomorph.parity.runners.spec import ModelSpec

__all__ = ["SUFFIXES", "Sides", "convert_now", "sides_of"]

Say = Callable[[str], None]
SUFFIXES = {"keras": ".keras", "onnx": ".onnx", "torch": ".pt2"}  # of the file that a converted model is saved as


@dataclass(frozen=True)
class Sides:
    """original, converted: what `check.examine` takes. made: the conversion that was made now (`legs.Model`), None for
    an artifact. notes: what the conversion has to say."""

    original: ModelSpec
    converted: ModelSpec
    made: Any = None
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """The conversion as a file in a folder. UsageError, UnsupportedError: it cannot be saved."""
        file = folder / f"converted{SUFFIXES[self.made.format]}"
        self.made.subject.save(file)
        return file


def sides_of(entry: ModelEntry, device: str, say: Say) -> Sides:
    """Both models of an entry. The working directory is the gate file's folder.

    UsageError, UnsupportedError, CaptureError: as `isomorph convert`; an artifact is not opened yet.
    """
    if entry.convert is not None:
        return convert_now(entry, device, say)
    both = ModelSpec(
        "", entry.inputs, seed=entry.seed, device=device, isolate=entry.isolate, timeout=entry.timeout,
        memory=entry.memory_limit,
    )  # fmt: skip
    return Sides(
        replace(both, target=entry.source, weights=entry.weights),
        replace(
            both, target=entry.artifact, weights=entry.artifact_weights, backend=entry.backend, python=entry.python
        ),
    )


def convert_now(entry: ModelEntry, device: str, say: Say) -> Sides:
    """The source, and what `isomorph convert` makes of it. What is compared is the first and the last model of the
    way."""
    from isomorph.parity.legs import load, step
    from isomorph.parity.matching.recorded import from_conversion

    options = dict(entry.convert or {})
    target = options.pop("to")
    source = source_format(entry.source)
    if source == target == "torch" and is_code(entry.source):
        source = "keras"  # what the code makes must be a Keras model then
    route = find(source, target)
    specs = parse_all(entry.inputs)
    weights = None if entry.weights is None else Path(entry.weights)
    model = load(source, entry.source, weights, specs, entry.seed, target, say)
    if model.format != source:
        route = find(model.format, target)
    options = _settled(options, route, model)
    models = [model]
    for leg in route.legs:
        models.append(step(leg, models[-1], _own(options, route, leg), say))
    first, last = _compared(models, route, options, say)
    texts: tuple[Any, ...] = first.specs if first.example is None else ()
    original = ModelSpec(first.subject, texts, example=first.example, seed=entry.seed, device=device)
    converted = ModelSpec(last.subject, seed=entry.seed, device=device)
    between = next((m for m in models[1:-1] if m.format == "torch"), None)
    if between is not None and first.format != "torch" and last.format == "keras":
        converted = replace(converted, recorded=from_conversion(between.subject))
    notes = tuple(dict.fromkeys(note for made in models for note in made.notes))
    return Sides(original, converted, models[-1], notes)


def _own(options: Mapping[str, Any], route: Route, leg: Any) -> dict[str, Any]:
    """The options that are for one step."""
    return {name: options.get(name) for name, taker in route.options.items() if taker is leg}


def _settled(options: Mapping[str, Any], route: Route, model: Any) -> dict[str, Any]:
    """The options as `isomorph convert` settles them. UsageError: one that means nothing on this way."""
    for name in options:
        if name not in route.options:
            raise UsageError(f"convert: {name!r} means nothing on the way {' -> '.join(route.formats)}")
    settled = dict(options)
    exported = model.format == "torch" and model.modes == ("eval",)
    if "mode" in route.options:
        if exported and options.get("mode") == "both":
            raise UsageError('convert: mode = "both": a .pt2 holds one mode only; leave it out, or give its code')
        settled["mode"] = "eval" if exported else options.get("mode", "both")
    if "layout" in route.options:
        settled.setdefault("layout", "keras" if route.target == "keras" else "torch")
    return settled


def _compared(models: Sequence[Any], route: Route, options: Mapping[str, Any], say: Say) -> tuple[Any, Any]:
    """The first and the last model, as they are compared: with "dtype" a torch source in that precision; what becomes
    torch in its source's, as casting it is torch's own work; and what follows from what was cast."""
    from isomorph.parity.legs import in_dtype, step

    if options.get("dtype") is None:
        return models[0], models[-1]
    if models[0].format == "torch":
        return in_dtype(models[0], options["dtype"]), models[-1]
    leg = route.options["dtype"]
    if leg is route.legs[-1]:
        return models[0], step(leg, models[-2], {**_own(options, route, leg), "dtype": None}, say)
    return models[route.legs.index(leg) + 1], models[-1]
