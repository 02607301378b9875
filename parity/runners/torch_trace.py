"""The original seen from inside: every call of every module, and of every function in the code between modules."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from isomorph.parity.explaining.flow import TracedCall
from isomorph.parity.runners.base import Request, Response
from isomorph.parity.runners.torch_runner import TorchRunner, to_numpy
from isomorph.parity.tolerance import Array

__all__ = ["Live", "lives_of", "respond_with", "trace_torch"]

FUNCTION_BYTES = 1 << 30  # what the arrays of functions may take; beyond it modules alone are recorded
NO_FUNCTIONS = ("__get__", "__set__", "__delete__", "requires_grad_", "register_hook", "retain_grad", "backward")


@dataclass(frozen=True)
class Live:
    """A call that can be made again: the module or function, and its arguments (tensors detached)."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class _Frame:
    """A module call that is being made, or was."""

    module: Any
    path: str
    parent: _Frame | None
    call: int
    inputs: list[_Seen] = field(default_factory=list)
    live: Live | None = None
    index: int = -1
    opaque: bool = False


@dataclass
class _Seen:
    """A recorded tensor: its value then, its number, what it was made from, and its gradient once that is known."""

    array: Array
    node: int
    sources: frozenset[int]
    gradient: Array | None = None


@dataclass
class _Done:
    frame: _Frame | None
    path: str
    kind: str
    call: int
    function: bool
    inputs: list[_Seen]
    outputs: list[_Seen]
    live: Live


def trace_torch(runner: TorchRunner, request: Request) -> tuple[TracedCall, ...]:
    """One run of the original, seen from inside, in order of completion, with its data flow.

    Every submodule's calls, the root's last, and the functions called in code between modules (not those inside
    modules of torch.nn). Modules get copies of their input tensors, so that an input's gradient is that of this call
    alone; where that changes what the module computes (it writes into its inputs for others to read) they get the
    tensors themselves. Raises whatever the module raises.
    """
    tracer = _Tracer(runner._module, copies=True)
    with tracer.open():
        response = runner.respond(request)
    plain = runner.respond(replace(request, backward=False))
    if not _same(response.outputs, plain.outputs):
        tracer = _Tracer(runner._module, copies=False)
        with tracer.open():
            runner.respond(request)
    _LIVES[runner] = [done.live for done in tracer._done]
    return tracer.calls()


def respond_with(runner: TorchRunner, request: Request, path: str, call: int, output: Array) -> Response:
    """`runner.respond` with the first tensor that call number `call` of a submodule returns replaced by an array of its
    shape."""
    seen = 0

    def put(module: torch.nn.Module, args: Any, result: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen - 1 != call:
            return result
        leaves, spec = pytree.tree_flatten(result)
        place = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
        leaves[place] = torch.from_numpy(output.copy()).to(leaves[place].dtype)
        return pytree.tree_unflatten(leaves, spec)

    handle = runner._module.get_submodule(path).register_forward_hook(put)
    try:
        return runner.respond(replace(request, backward=False))
    finally:
        handle.remove()


def lives_of(runner: TorchRunner) -> list[Live]:
    """What the calls of the runner's last trace were made with, in its order. KeyError: it was never traced."""
    return _LIVES[runner]


_LIVES: weakref.WeakKeyDictionary[TorchRunner, list[Live]] = weakref.WeakKeyDictionary()


def _same(left: tuple[Array, ...], right: tuple[Array, ...]) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and (a.tobytes() == b.tobytes() or bool(abs(a - b).max() <= 1e-9 * abs(b).max()))
        for a, b in zip(left, right, strict=True)
    )


class _Tracer(TorchFunctionMode):
    def __init__(self, root: torch.nn.Module, copies: bool) -> None:
        super().__init__()
        self._root, self._copies = root, copies
        self._done: list[_Done] = []
        self._stack: list[_Frame] = []
        self._counts: dict[str, int] = {}
        self._marks: dict[int, tuple[torch.Tensor, frozenset[int]]] = {}  # the tensor is kept: ids are reused
        self._nodes = 0
        self._bytes = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While open, runs of the root are recorded."""
        handles = []
        for path, module in self._root.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def calls(self) -> tuple[TracedCall, ...]:
        """What was recorded, gradients included."""
        for index, done in enumerate(self._done):
            if not done.function and done.frame is not None:
                done.frame.index = index
        return tuple(self._call(done) for done in self._done)

    def _call(self, done: _Done) -> TracedCall:
        parent = done.frame if done.function else done.frame.parent if done.frame else None
        return TracedCall(
            done.path, done.kind, done.call,
            tuple(s.array for s in done.inputs), tuple(s.array for s in done.outputs),
            tuple(s.gradient for s in done.inputs), tuple(s.gradient for s in done.outputs),
            parent.index if parent else -1, done.function,
            tuple(s.node for s in done.inputs), tuple(s.node for s in done.outputs),
            tuple(_sorted(s) for s in done.inputs), tuple(_sorted(s) for s in done.outputs),
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- modules
    def _enter(self, path: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                number = self._counts.get(path, 0)
                self._counts[path] = number + 1
                frame = _Frame(module, path, self._stack[-1] if self._stack else None, number)
                frame.opaque = _is_closed(module) or bool(frame.parent and frame.parent.opaque)
                self._stack.append(frame)
                args, kwargs = pytree.tree_map(lambda t: self._mark_new(t, frame.inputs), (args, kwargs))
                frame.live = _live(module, args, kwargs)
                return args, kwargs

        return hook

    def _leave(self, module: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        with torch._C.DisableTorchFunction():
            frame = self._stack.pop()
            outputs: list[_Seen] = []
            result = pytree.tree_map(lambda t: self._mark_new(t, outputs), result)
            assert frame.live is not None
            kind = type(module).__name__
            self._done.append(_Done(frame, frame.path, kind, frame.call, False, frame.inputs, outputs, frame.live))
            return result

    def _mark_new(self, leaf: Any, seen: list[_Seen]) -> Any:
        """The leaf as it is handed on: a tensor as a copy of its own, recorded."""
        if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided:
            return leaf
        if self._copies and type(leaf) is torch.Tensor:
            sources = self._sources(leaf)
            leaf = leaf.clone()
            self._marks[id(leaf)] = (leaf, sources)
        seen.append(self._record(leaf, self._sources(leaf)))
        return leaf

    def _record(self, tensor: torch.Tensor, sources: frozenset[int]) -> _Seen:
        seen = _Seen(to_numpy(tensor), self._nodes, sources)
        self._nodes += 1
        self._marks[id(tensor)] = (tensor, frozenset({seen.node}))
        if tensor.requires_grad:

            def keep(gradient: torch.Tensor) -> None:
                seen.gradient = to_numpy(gradient)

            tensor.register_hook(keep)
        return seen

    def _sources(self, tensor: torch.Tensor) -> frozenset[int]:
        found = self._marks.get(id(tensor))
        return found[1] if found is not None else frozenset()

    # -------------------------------------------------------------------------------------------------------- functions
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", type(func).__name__)
        if not self._stack or name in NO_FUNCTIONS:
            return func(*args, **kwargs)
        frame = self._stack[-1]
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        sources = frozenset().union(*(self._sources(t) for t in given))
        live = None if frame.opaque else _live(func, args, kwargs)
        before = [to_numpy(t) for t in given] if live is not None and self._bytes < FUNCTION_BYTES else None
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            made = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.layout == torch.strided]
            if name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and given):
                made = [given[0]]
            if not made:
                return result
            if live is None or before is None:
                for tensor in made:
                    self._marks[id(tensor)] = (tensor, sources)
                return result
            outputs = [self._record(t, sources) for t in made]
            self._bytes += sum(s.array.nbytes for s in outputs) + sum(a.nbytes for a in before)
            inputs = [_Seen(a, -1, self._sources(t)) for a, t in zip(before, given, strict=True)]
            number = self._counts.get(f"{frame.path}:{name}", 0)
            self._counts[f"{frame.path}:{name}"] = number + 1
            self._done.append(_Done(frame, frame.path, _title(func, name), number, True, inputs, outputs, live))
        return result


def _sorted(seen: _Seen) -> tuple[int, ...]:
    return tuple(sorted(seen.sources))


def _is_closed(module: torch.nn.Module) -> bool:
    """Whether what happens inside a module is its own affair: torch's own, without submodules."""
    return type(module).__module__.startswith("torch.nn.") and not any(module.children())


def _title(func: Any, name: str) -> str:
    """A function as a user would write it."""
    if isinstance(func, torch._ops.OpOverload):
        return str(func)
    owner = getattr(func, "__module__", None) or ""
    if owner == "torch.nn.functional":
        return f"F.{name}"
    method = hasattr(torch.Tensor, name) and "Tensor" in getattr(func, "__qualname__", "Tensor")
    if name.startswith("__") or method:
        return f"Tensor.{name}"
    return f"torch.{name}"


def _live(function: Any, args: Any, kwargs: Any) -> Live:
    args, kwargs = pytree.tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, (args, kwargs))
    return Live(function, tuple(args), dict(kwargs))
