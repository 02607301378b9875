"""The models of a check in a test: what they are called, where they run, how they are converted and compared."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from isomorph.convert.errors import IsomorphError, UsageError
from isomorph.parity.pytest_plugin.options import Choice
from isomorph.parity.record import Subject
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.verdict import Verdict

__all__ = ["check", "convert", "described", "named", "plain_settings", "quiet", "specs", "subjects"]

_MODELS = ("original", "converted", "inputs")


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call of the fixture as those of `check`. UsageError: one is none."""
    known = _check_keys()
    for name in options:
        if name not in known and name != "train_steps":
            raise UsageError(f"parity(): unknown argument {name!r}; known are {', '.join(known)} and train_steps")
    if {"steps", "train_steps"} <= set(options):
        raise UsageError("parity(): train_steps and steps are the same argument; give one of them")
    return {"steps" if name == "train_steps" else name: value for name, value in options.items()}


def specs(pair: tuple[Any, Any], inputs: Any, choice: Choice, device: str | None) -> tuple[ModelSpec, ModelSpec]:
    """Both models, with what is to be said of where they run. device: None leaves it to a `ModelSpec`."""
    given = choice.arguments
    texts = tuple(inputs) if _texts(inputs) else ()
    example = None if texts else inputs
    first, second = (_spec(model, device, int(given.get("seed", 0))) for model in pair)
    if inputs is not None:
        first = replace(first, inputs=texts or first.inputs, example=example)
        if not isinstance(pair[1], ModelSpec):
            second = replace(second, inputs=texts)
    second = replace(
        second, backend=given.get("backend") or second.backend, python=given.get("python") or second.python
    )
    return first, second


def check(original: ModelSpec, converted: ModelSpec, choice: Choice) -> Verdict:
    """`isomorph.check` with everything that was chosen."""
    from isomorph.parity.check import check as compare

    rest = {name: value for name, value in choice.arguments.items() if name not in ("backend", "python")}
    return compare(original, converted, **rest)


def convert(model: Any, inputs: Any, options: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What a model becomes, and the check's inputs and options.

    IsomorphError: it cannot be converted, or an option is neither the conversion's nor the check's.
    """
    from isomorph.convert import way_home

    torch = sys.modules.get("torch")
    if way_home.is_torch_conversion(model) or (torch is not None and isinstance(model, torch.nn.Module)):
        from isomorph.convert.api import to_keras

        ours, rest = _split(to_keras, options)
        args, kwargs = _call(inputs)
        if args is not None:
            ours = {"example_args": args, "example_kwargs": kwargs, **ours}
        return to_keras(model, **ours), None, rest  # the conversion has its example
    from isomorph.convert.onnx_in.api import to_torch

    ours, rest = _split(to_torch, options)
    return to_torch(os.fspath(model) if isinstance(model, os.PathLike) else model, **ours), inputs, rest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings: a check runs the models hundreds of times, and where warnings are errors (`-W error`) a framework's
    would be a model's failure. No records of torch.export's tracing, which is for tools of its own: pytest captures
    each logger, and would show them with the failure."""
    trace = logging.getLogger("torch.__trace")
    captures = [handler for handler in trace.handlers if type(handler).__module__.startswith("_pytest.")]
    for handler in captures:
        trace.removeHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in captures:
            trace.addHandler(handler)


def described(model: Any) -> str:
    """A model's name in a line of text: its path or its class."""
    target = model.target if isinstance(model, ModelSpec) else model
    if isinstance(target, str | os.PathLike):
        return os.fspath(target)
    if inspect.isfunction(target) or inspect.ismethod(target):
        return str(target.__qualname__).rpartition("<locals>.")[2]
    name = getattr(target, "name", None)  # of a Keras model
    kind = type(target).__name__
    return f"{kind} {name!r}" if isinstance(name, str) and name and name.lower() != kind.lower() else kind


def subjects(pair: tuple[Any, Any]) -> tuple[Subject, ...]:
    """Both models; a file or a directory by its hash."""
    found: list[Subject] = []
    for role, model in zip(("original", "converted"), pair, strict=True):
        target = model.target if isinstance(model, ModelSpec) else model
        if isinstance(target, str | os.PathLike) and os.path.exists(target):
            from isomorph.parity.gate import digest

            try:
                found += digest.subjects(role, os.fspath(target), target)
                continue
            except IsomorphError:  # it is judged all the same
                pass
        kind = "code" if isinstance(target, str) else "object"
        found.append(Subject(role, described(model), kind))
    return tuple(found)


def plain_settings(choice: Choice) -> dict[str, Any]:
    """What was chosen, as the record keeps it."""
    known = (str, int, float, bool, type(None))
    found: dict[str, Any] = {"profile": choice.profile}
    for name, value in choice.arguments.items():
        plain = isinstance(value, known) or (isinstance(value, tuple) and all(isinstance(v, known) for v in value))
        if name != "report":  # `check`'s own `profile` says whether modules are measured
            found["modules" if name == "profile" else name] = value if plain else str(value)
    return found


def _spec(model: Any, device: str | None, seed: int) -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model if device is None else replace(model, device=device)
    target = os.fspath(model) if isinstance(model, os.PathLike) else model
    return ModelSpec(target, seed=seed, device=device or "cpu")


def _texts(inputs: Any) -> bool:
    return isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(item, str) for item in inputs)


def _check_keys() -> tuple[str, ...]:
    from isomorph.parity.check import check as compare

    return tuple(name for name in inspect.signature(compare).parameters if name not in _MODELS)


def _split(function: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a conversion, and the rest, which the check judges."""
    known = set(inspect.signature(function).parameters)
    both = set(_check_keys()) | known | {"train_steps"}
    for name in options:
        if name not in both:
            raise UsageError(f"parity.convert(): unknown argument {name!r}; known are {', '.join(sorted(both))}")
    ours = {name: value for name, value in options.items() if name in known}
    return ours, {name: value for name, value in options.items() if name not in known}


def _call(inputs: Any) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """(args, kwargs) of the forms in which a check takes an example."""
    if inputs is None:
        return None, {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    pair = isinstance(inputs, tuple) and len(inputs) == 2
    if pair and isinstance(inputs[0], tuple | list) and isinstance(inputs[1], Mapping):
        return tuple(inputs[0]), dict(inputs[1])
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})
