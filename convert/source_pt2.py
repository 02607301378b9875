"""`model.pt2`: an archive written by torch.export.save, read without running anything that it holds.

torch.export.load itself is not safe: it unpickles, loads shared libraries, and evaluates the symbolic shapes as Python
(sympy.sympify). So the archive is looked through first, with torch's own reader, and refused when it needs any of it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .errors import UsageError

# What sympy.srepr writes for a shape: Mul(Integer(2), Symbol('s0', positive=True, integer=True)). Anything else that
# sympify would evaluate (attributes, calls of other names, strings) does not fit.
_NAMES = r"[A-Z]\w*(?=\()|positive|integer|nonnegative|real|precision|prec|dps|evaluate|True|False|None|oo|int_oo"
_QUOTED = r"'(?:[a-z]\w*|-?\d[\d.eE+-]*)'"
_EXPRESSION = re.compile(rf"(?:{_NAMES}|{_QUOTED}|[suz]f?\d+|\d+|[\s()+\-*/,=<>])*")


def load_pt2(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, Any] | None]:
    """The program and its dynamic shapes ({forward parameter: {axis: symbol}}, None where all is fixed).

    UsageError: not such an archive, one of another version, or one that would run code.
    """
    try:
        _refuse_code(path)
        with _weights_only():
            program = torch.export.load(str(path))
    except UsageError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, "pickled objects that are no tensors") from error
    except PermissionError as error:
        raise UsageError(f"{path}: permission denied") from error
    except Exception as error:  # torch raises nearly every type here, for a file that is not what it says
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{path} cannot be read as a torch.export archive: {first}") from error
    return program, _dynamic_shapes(program)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Every torch.load inside unpickles tensors only, whatever it was asked."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _refuse_code(path: Path) -> None:
    from torch.export.pt2_archive import _package as package

    try:
        with package.PT2ArchiveReader(str(path)) as reader:
            names = reader.get_file_names()
            models = {n: reader.read_string(n) for n in names if n.startswith(package.MODELS_DIR)}
    except RuntimeError as error:
        raise UsageError(f"{path} is not a torch.export archive (torch.export.save writes them)") from error
    if not models:
        raise UsageError(f"{path} is an archive, but holds no exported program (torch.export.save writes them)")
    if "model" not in {Path(name).stem for name in models}:
        raise UsageError(f"{path} holds {', '.join(sorted(models))}, and not the 'model' that torch.export.save writes")
    for name in names:
        if name.startswith(package.AOTINDUCTOR_DIR):
            raise _refused(path, f"{name}, compiled code; export the model with torch.export.save")
        if Path(name).name.startswith((package.CUSTOM_OBJ_FILENAME_PREFIX, package.OPAQUE_OBJ_FILENAME_PREFIX)):
            raise _refused(path, f"{name}, a pickled object")
    for name, text in models.items():
        for expression in _expressions(json.loads(text)):
            if "__" in expression or not _EXPRESSION.fullmatch(expression):
                raise _refused(path, f"the shape {expression[:80]!r} in {name}, which is not a plain expression")


def _refused(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: refused, reading it would run code: it holds {what}")


def _expressions(node: Any) -> Iterator[str]:
    """Every "expr_str" of the serialised program, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr_str":
                yield str(value)
            else:
                yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)


def _dynamic_shapes(program: torch.export.ExportedProgram) -> dict[str, Any] | None:
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    leaves = [
        _axes(values.get(name)) if isinstance(name, str) else None for name in program.graph_signature.user_inputs
    ]
    if not any(leaves):
        return None
    args, kwargs = torch.utils._pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    names = program.module_call_graph[0].signature.forward_arg_names
    positional = dict(zip(names or (), args, strict=False))
    return {**positional, **kwargs}


def _axes(value: Any) -> dict[int, str] | None:
    if not isinstance(value, torch.Tensor):
        return None
    axes = {i: str(size) for i, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
    return axes or None
