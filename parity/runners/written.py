"""A torch module written to a file in the mode that failed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from isomorph.convert.errors import UnsupportedError, UsageError, first_line
from isomorph.convert.sources import load_source
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.runners.torch_runner import copy_module, example_leaves
from isomorph.parity.tolerance import Array

__all__ = ["export_module", "export_source"]


def export_source(spec: ModelSpec, inputs: Sequence[Array], mode: str, path: Path) -> None:
    """`export_module` for the torch module that a text names: code, hf:, timm: or torchvision:.

    UsageError: the text names none. UnsupportedError: torch.export refuses it.
    """
    source = load_source(spec.target, spec.weights, spec.inputs, spec.seed)
    export_module(source.module, (source.args, source.kwargs), inputs, mode, path)


def export_module(module: torch.nn.Module, example: Any, inputs: Sequence[Array], mode: str, path: Path) -> None:
    """torch.export of a copy of the module in `mode`, with fixed sizes, written to `path`.

    example: arguments that the module accepts, as a caller gave them; None where they are the inputs in order. inputs:
    flat arrays that take the place of its tensors. UnsupportedError: torch.export refuses the module. UsageError: there
    are neither inputs nor an example.
    """
    if example is None and not inputs:
        raise UsageError("the module cannot be exported without example inputs")
    args, kwargs = _arguments(example, inputs)
    twin = copy_module(module).cpu().train(mode == "train")
    try:
        torch.export.save(torch.export.export(twin, args, kwargs, strict=False), path)
    except Exception as error:  # torch.export raises nearly every type
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UnsupportedError(f"torch.export cannot write the original: {said}") from error


def _arguments(example: Any, inputs: Sequence[Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) with the inputs in the place of the example's tensors, in their dtypes."""
    given = tuple(torch.from_numpy(copy.copy(a)) for a in inputs)
    if example is None:
        return given, {}
    call = example_leaves(example)
    tensors = [t.to(e.dtype) for t, e in zip(given, call.examples, strict=True)] if given else list(call.examples)
    found: list[Any] = []

    def catch(*args: Any, **kwargs: Any) -> None:
        found.append((args, kwargs))

    call(catch, tensors)
    args, kwargs = found[0]
    return tuple(args), dict(kwargs)
