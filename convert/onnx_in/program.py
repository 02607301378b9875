"""`Program`: the module that comes out. Its `forward` is generated code; its submodules bear the model's names."""

from __future__ import annotations

import keyword
import linecache
import operator
import re
from importlib import import_module
from itertools import count
from types import MethodType
from typing import Any

import torch
from torch import fx

__all__ = ["Program"]

_numbers = count()
_OWNER = r"(?:self|getattr\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))(?:\.\w+)*?"
KEYWORD = re.compile(rf"({_OWNER})\.({'|'.join(keyword.kwlist)})\b")


class Program(torch.nn.Module):
    """A graph of an ONNX model as a module. Parameters, buffers and submodules are those of `root`.

    code: the Python source of forward. It is kept as text, so that the module can be copied, pickled and exported. (A
    model may have a submodule of that name, which goes first.)
    """

    def __init__(self, root: torch.nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        for kind in ("_modules", "_parameters", "_buffers"):
            getattr(self, kind).update(getattr(root, kind))
        self._non_persistent_buffers_set |= root._non_persistent_buffers_set
        python = graph.python_code("self")
        self._source: str = _tidy(python.src)
        if not any("code" in held for held in (self._modules, self._parameters, self._buffers)):
            self.code = self._source
        self._names = {name: _address(value) for name, value in python.globals.items()}
        self._compile()

    def _compile(self) -> None:
        """The forward of `code`. Its text is told to linecache: tracebacks and torch.compile show its lines."""
        scope = {name: _resolve(*address) for name, address in self._names.items()}
        file = f"<isomorph program {next(_numbers)}>"
        linecache.cache[file] = (len(self._source), None, self._source.splitlines(keepends=True), file)
        exec(compile(self._source, file, "exec"), scope)
        self.forward = MethodType(scope["forward"], self)  # the instance's own, so that its signature is the model's

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["forward"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()


def _tidy(source: str) -> str:
    """Without the notes that free each value after its last use, and with torch's public names of what it calls."""
    source = re.sub(r";  [\w, =]+ = None$", "", source, flags=re.M).strip() + "\n"
    source = re.sub(r"torch\._C\.(_\w+)\.(\w+)", _public, source)
    while source != (plain := KEYWORD.sub(r'getattr(\1, "\2")', source)):  # self.if is no Python
        source = plain
    return source


# where torch shows the functions of its inner modules: the public module, and the prefix that it leaves out
PUBLIC = {
    "_nn": ("nn.functional", ""),
    "_linalg": ("linalg", "linalg_"),
    "_fft": ("fft", "fft_"),
    "_special": ("special", "special_"),
}


def _public(found: re.Match[str]) -> str:
    """torch.nn.functional.gelu for torch._C._nn.gelu, if they are one function; else the name as it is."""
    inner, name = found[1], found[2]
    module, prefix = PUBLIC.get(inner, ("", ""))
    shown = operator.attrgetter(module)(torch) if module else None
    public = name.removeprefix(prefix)
    same = getattr(shown, public, None) is getattr(getattr(torch._C, inner), name)
    return f"torch.{module}.{public}" if same else found[0]


def _address(value: Any) -> tuple[str, str]:
    """Where a name of the generated code comes from: (module, attribute), or (module, "")."""
    if isinstance(value, type(torch)):
        return value.__name__, ""
    if isinstance(value, torch.dtype | torch.device):
        return "=", str(value)
    if isinstance(value, float):
        return "float", repr(value)
    return getattr(value, "__module__", None) or "builtins", getattr(value, "__qualname__", None) or value.__name__


def _resolve(module: str, name: str) -> Any:
    if module == "=":
        return getattr(torch, name.removeprefix("torch.")) if name.startswith("torch.") else torch.device(name)
    if module == "float":
        return float(name)
    if name == "NoneType":
        return type(None)
    found: Any = import_module(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    return found
