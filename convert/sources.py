"""Where a module comes from: the SOURCE of the command line to a module with example inputs.

    model.pt2             an archive of torch.export.save
    pkg.module:factory    a function, class or module object; also path/to/file.py:factory
    hf:DIR                a local directory of Hugging Face transformers
    timm:NAME             a timm architecture, random weights unless --weights is given
    torchvision:NAME      likewise

Nothing is downloaded, and no code is run except the one that the user names.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .checkpoint import load_weights
from .errors import UsageError
from .examples import Examples, build_examples
from .inputspec import InputSpec, parse_all
from .named_code import cwd_importable, find, kind_of, suggest, user_code

FORMS = "model.pt2, pkg.module:factory, path/to/file.py:factory, hf:DIR, timm:NAME or torchvision:NAME"


@dataclass(frozen=True)
class Source:
    """A module and one example call of it.

    `dynamic_shapes` is in torch.export's form with strings as axis names; `exported_program` is set for a .pt2,
    whose `module` is captured in one mode and cannot change it; `ranges` and `bounds` are the sizes allowed for the
    named axes and the values allowed for the integer inputs; `notes` are what the user should be told.
    """

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any
    origin: str
    exported_program: torch.export.ExportedProgram | None = None
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_source(
    text: str, weights: str | Path | None = None, inputs: Sequence[str | InputSpec] = (), seed: int = 0
) -> Source:
    """The module that `text` names, its weights loaded, with example inputs; the same seed gives the same ones.

    UsageError: `text` has none of the forms, what it names cannot be loaded, or `inputs` do not fit `forward`.
    WeightError: the weights file does not fit the module.
    """
    specs = parse_all(inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind, colon, name = text.partition(":")
        if colon and kind == "hf":
            from .source_hf import load_hf

            return load_hf(name, weights, specs, seed)
        if colon and kind in ("timm", "torchvision"):
            return _load_zoo(kind, name, weights, specs, seed)
        if text.endswith(".pt2"):
            return _load_exported(text, weights, specs, seed)
        if colon and name:
            return _load_factory(text, weights, specs, seed)
    if text.endswith((".pt", ".pth", ".ckpt", ".safetensors", ".bin")):
        raise UsageError(
            f"{text} holds weights, not a model: name the code that builds the module, pkg.module:factory, "
            f"and give the file as --weights {text}"
        )
    hint = f"; a directory of save_pretrained is hf:{text}" if text and Path(text).is_dir() else ""
    raise UsageError(f"SOURCE {text!r} is not understood; give {FORMS}{hint}")


# --- model.pt2 ----------------------------------------------------------------------------------------------------


def _load_exported(text: str, weights: str | Path | None, specs: Sequence[InputSpec], seed: int) -> Source:
    from .source_pt2 import load_pt2

    path = Path(text)
    if not path.is_file():
        raise UsageError(f"{text}: no such file")
    program, dynamic_shapes = load_pt2(path)
    module = program.module()
    for child in module.modules():
        # Its train() and eval() raise; the flag says what is true of a program: it has no other mode.
        child.training = False
    if weights is not None:
        load_weights(module, weights)
    if specs:
        if any(not isinstance(d, int) for spec in specs for d in spec.dims):
            raise UsageError(f"{text}: its dynamic axes were fixed when it was exported; give --input with sizes only")
        examples = build_examples(module, specs, seed)
        # The program takes each argument only as it was exported: by position or by keyword.
        values = {
            **dict(zip(inspect.signature(module.forward).parameters, examples.args, strict=False)),
            **examples.kwargs,
        }
        positional = list(values)[: program.call_spec.in_spec.child(0).num_children]
        args, kwargs = tuple(values.pop(name) for name in positional), values
    elif program.example_inputs is None:
        raise UsageError(f"{text} holds no example inputs; give {_how_to_give_inputs(module)}")
    else:
        args, kwargs = program.example_inputs
    note = "the archive holds one mode of the model, the one it was exported in; only that mode is converted"
    return Source(module, tuple(args), dict(kwargs), dynamic_shapes, str(path), program, notes=(note,))


# --- pkg.module:factory -------------------------------------------------------------------------------------------


def _load_factory(text: str, weights: str | Path | None, specs: Sequence[InputSpec], seed: int) -> Source:
    with cwd_importable():
        home, made = find(text)
        # A module object is callable too, but calling it would run it.
        if not isinstance(made, torch.nn.Module):
            if not callable(made):
                attribute = text.rpartition(":")[2]
                raise UsageError(f"{text}: {attribute} is {kind_of(made)}, not a function or class that makes a module")
            made = user_code(made, f"{text}: calling {text.rpartition(':')[2]}()")
        return source_of(made, text, weights, specs, seed, home)


def source_of(
    made: Any, text: str, weights: str | Path | None, specs: Sequence[InputSpec], seed: int, home: ModuleType | None
) -> Source:
    """The source of an object: a module, (module, args) or (module, args, kwargs). `home` is the Python module that it
    came from: `example_inputs` and `dynamic_shapes` are looked for there. UsageError as `load_source`."""
    module, args, kwargs = _unpack(made, text)
    if weights is not None:
        load_weights(module, weights)
    if specs:
        return _with_specs(module, text, specs, seed)
    if args is None:
        args, kwargs = _example_inputs(home, module, text)
    if args is None:
        attribute = text.rpartition(":")[2]
        beside_it = f", or write example_inputs() beside {attribute}" if home is not None else ""
        raise UsageError(f"{text}: no example inputs; give {_how_to_give_inputs(module)}{beside_it}")
    dynamic_shapes = getattr(home, "dynamic_shapes", None)
    if callable(dynamic_shapes):
        dynamic_shapes = user_code(dynamic_shapes, f"{text}: dynamic_shapes()")
    return Source(module, args, kwargs, dynamic_shapes, text)


def _with_specs(
    module: torch.nn.Module, origin: str, specs: Sequence[InputSpec], seed: int, notes: tuple[str, ...] = ()
) -> Source:
    examples: Examples = build_examples(module, specs, seed)
    return Source(
        module,
        examples.args,
        examples.kwargs,
        examples.dynamic_shapes,
        origin,
        ranges=examples.ranges,
        bounds=examples.bounds,
        notes=notes,
    )


def _unpack(made: Any, text: str) -> tuple[torch.nn.Module, tuple[Any, ...] | None, dict[str, Any]]:
    """A factory returns a module, (module, args) or (module, args, kwargs)."""
    if isinstance(made, torch.nn.Module):
        return made, None, {}
    if isinstance(made, tuple) and 2 <= len(made) <= 3 and isinstance(made[0], torch.nn.Module):
        args = made[1] if isinstance(made[1], (tuple, list)) else (made[1],)
        kwargs = made[2] if len(made) == 3 else {}
        if isinstance(kwargs, Mapping):
            return made[0], tuple(args), dict(kwargs)
    raise UsageError(
        f"{text}: returned {kind_of(made)}; it must return a torch.nn.Module, (module, args) or (module, args, kwargs)"
    )


def _example_inputs(
    home: ModuleType | None, module: torch.nn.Module, text: str
) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """`example_inputs()` of the same file: a tensor, a tuple of args, a dict of kwargs, or (args, kwargs)."""
    function = getattr(home, "example_inputs", None)
    if not callable(function):
        needs = [p for p in inspect.signature(module.forward).parameters.values() if p.default is p.empty]
        return (() if not needs else None), {}
    given = user_code(function, f"{text}: example_inputs()")
    if isinstance(given, torch.Tensor):
        return (given,), {}
    if isinstance(given, Mapping):
        return (), dict(given)
    if isinstance(given, (tuple, list)):
        if len(given) == 2 and isinstance(given[0], (tuple, list)) and isinstance(given[1], Mapping):
            return tuple(given[0]), dict(given[1])
        return tuple(given), {}
    raise UsageError(f"{text}: example_inputs() returned {kind_of(given)}; expected a tensor, a tuple, a dict or both")


def _how_to_give_inputs(module: torch.nn.Module) -> str:
    names = [p.name for p in inspect.signature(module.forward).parameters.values()]
    example = names[0] if names else "x"
    return f'--input "{example}=float32[b,3,224,224]" (arguments of forward: {", ".join(names) or "none"})'


# --- timm:NAME, torchvision:NAME ----------------------------------------------------------------------------------


def _load_zoo(kind: str, name: str, weights: str | Path | None, specs: Sequence[InputSpec], seed: int) -> Source:
    library = _import_zoo(kind)
    names = library.list_models()
    if name not in names:
        raise UsageError(f"{kind} has no model {name!r}{suggest(name, names)}")
    if kind == "timm":
        module = user_code(lambda: library.create_model(name, pretrained=False), f"timm.create_model({name!r})")
        size = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    else:
        module = user_code(lambda: library.get_model(name, weights=None), f"torchvision get_model({name!r})")
        size = (3, 299, 299) if name == "inception_v3" else (3, 224, 224)
    notes: tuple[str, ...] = ()
    if weights is not None:
        load_weights(module, weights)
    else:
        notes = (f"{kind}:{name} has random weights (nothing is downloaded); give --weights FILE for trained ones",)
    if not specs:
        parameter = next(iter(inspect.signature(module.forward).parameters))
        specs = parse_all([f"{parameter}=float32[b,{','.join(map(str, size))}]"])
    return _with_specs(module, f"{kind}:{name}", specs, seed, notes)


def _import_zoo(kind: str) -> Any:
    try:
        return importlib.import_module("timm" if kind == "timm" else "torchvision.models")
    except ImportError as error:
        missing = (error.name or kind).partition(".")[0]
        needs = f"{kind} is not installed" if missing == kind else f"{kind} needs {missing}, which is not installed"
        how = "pip install 'isomorph[timm]' torchvision" if kind == "timm" else "pip install torchvision"
        raise UsageError(f"{kind}: {needs}; {how} (torchvision in the build that matches your torch)") from error
