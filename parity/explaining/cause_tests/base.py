"""What a test for a cause works with: the difference, the call made again with something changed, and a solver.

An alternative recomputes what the original gives under one mistake. It is a cause where it reproduces what the
converted model has, and the honest value does not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from isomorph.parity.compare import canonical
from isomorph.parity.explaining.fault import Fault, clear_number
from isomorph.parity.runners.torch_trace import Live
from isomorph.parity.tolerance import Array

__all__ = ["TABLE", "Again", "Alternatives", "again", "alternative", "causes_of", "solved"]

Alternatives = Callable[["Again"], Iterator[tuple[str, Any]]]
TABLE: dict[str, list[Alternatives]] = {}
STEPS = 40


def alternative(*kinds: str) -> Callable[[Alternatives], Alternatives]:
    """Register a generator of alternatives for module classes and functions of these names."""

    def register(test: Alternatives) -> Alternatives:
        for kind in kinds:
            TABLE.setdefault(kind, []).append(test)
        return test

    return register


@dataclass
class Again:
    """The call that differs, to be made again."""

    fault: Fault
    live: Live

    @property
    def module(self) -> Any:
        """The module (never to be changed: see `altered`)."""
        return self.live.function

    @property
    def x(self) -> torch.Tensor:
        """The first input."""
        return torch.from_numpy(np.array(self.fault.inputs[0]))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as the traced call got them, from the recorded arrays."""
        given = iter(self.fault.inputs)

        def back(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided:
                return leaf
            array = next(given)
            return torch.from_numpy(np.array(array)).to(leaf.dtype)

        args, kwargs = pytree.tree_map(back, (self.live.args, self.live.kwargs))
        return args, kwargs

    def run(self, function: Callable[..., Any] | None = None, *more: Any, **changed: Any) -> list[Array]:
        """Flat outputs of the call, of another function, or with other keyword arguments."""
        args, kwargs = self.arguments()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = (function or self.live.function)(*args, *more, **{**kwargs, **changed})
        return [np.array(t.detach().numpy()) for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]

    def altered(self, change: Callable[[Any], Any]) -> list[Array]:
        """Flat outputs of a copy of the module that `change` has changed."""
        module = copy.deepcopy(self.module)
        with torch.no_grad():
            change(module)
        return self.run(module)

    def having(self, **attributes: Any) -> list[Array]:
        """Flat outputs of a copy of the module with other attributes."""

        def change(module: Any) -> None:
            for name, value in attributes.items():
                setattr(module, name, value)

        return self.altered(change)

    def argument(self, name: str, position: int | None, default: Any = None) -> Any:
        """An argument of a function call."""
        if name in self.live.kwargs:
            return self.live.kwargs[name]
        if position is not None and position < len(self.live.args):
            return self.live.args[position]
        return default

    def number(self, name: str, position: int | None, default: Any = None) -> Any:
        """An attribute of the module, or the function's argument of that name."""
        if isinstance(self.live.function, torch.nn.Module):
            return getattr(self.live.function, name, default)
        return self.argument(name, position, default)

    def given(self, name: str, position: int | None, value: Any) -> list[Array]:
        """Flat outputs of a function call with one argument changed."""
        args, kwargs = self.arguments()
        if name not in kwargs and position is not None and position < len(args):
            args = (*args[:position], value, *args[position + 1 :])
        else:
            kwargs = {**kwargs, name: value}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = self.live.function(*args, **kwargs)
        return [np.array(t.detach().numpy()) for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]

    def solve(
        self, run: Callable[[float], Sequence[Array]], known: Sequence[float], honest: float, positive: bool = True
    ) -> tuple[float, Sequence[Array]] | None:
        """A number for which `run` reproduces what the converted model has: one of `known`, else solved for."""
        return solved(self.fault, run, known, honest, positive)


def again(live: Live, inputs: Sequence[Array]) -> list[Array]:
    """Flat outputs of a call on other inputs, on a copy of a module."""
    module = live.function
    if isinstance(module, torch.nn.Module):
        live = Live(copy.deepcopy(module), live.args, live.kwargs)
    nothing = Fault("", "", "", tuple(inputs), (), (), lambda array: False)
    return Again(nothing, live).run()


def causes_of(fault: Fault, live: Live) -> list[str]:
    """The named alternatives of the fault's kind that reproduce what the converted model has."""
    again = Again(fault, live)
    kind = fault.kind.removeprefix("F.").removeprefix("torch.").removeprefix("Tensor.")
    found: dict[str, int] = {}
    for test in TABLE.get(kind, ()):
        alternatives = test(again)
        while True:
            try:
                text, outputs = next(alternatives)
            except StopIteration:
                break
            except Exception:  # what the alternative asks for is not possible here
                break
            flat = outputs if isinstance(outputs, list | tuple) else [_array(outputs)]
            found.setdefault(text, fault.reproduced(flat))
    best = max(found.values(), default=0)
    return [text for text, sure in found.items() if sure == best] if best else []


def solved(
    fault: Fault, run: Callable[[float], Sequence[Array]], known: Sequence[float], honest: float, positive: bool = True
) -> tuple[float, Sequence[Array]] | None:
    """See `Again.solve`. The search is a secant in the projection on the difference, in the logarithm if `positive`."""
    for value in known:
        if value != honest:
            outputs = run(value)
            if fault.reproduced(outputs):
                return value, outputs
    got, place = fault.observed()
    if got is None:
        return None
    base = canonical(run(honest)[place])
    direction = canonical(got) - base
    norm = float(np.sum(direction * direction))
    if not np.isfinite(norm) or norm == 0.0:
        return None

    def share(parameter: float) -> float:
        value = float(np.exp(parameter)) if positive else parameter
        return float(np.sum((canonical(run(value)[place]) - base) * direction)) / norm - 1.0

    start = float(np.log(max(honest, 1e-12))) if positive else honest
    root = _root(share, start, 1.0 if positive else max(abs(honest), 1e-3) * 0.5)
    if root is None:
        return None
    value = float(np.exp(root)) if positive else root
    for candidate in (*(clear_number(value, digits) for digits in (1, 2, 3, 4, 6)), value):
        if fault.reproduced(outputs := run(candidate)):
            return candidate, outputs
    return None


def _root(function: Callable[[float], float], start: float, step: float) -> float | None:
    """A zero of a function that is -1 at `start`: bracketed by growing steps to either side, then by regula falsi."""
    for sign in (1.0, -1.0):
        left, at_left, size = start, -1.0, step
        for _ in range(12):
            right = left + sign * size
            at_right = function(right)
            if not np.isfinite(at_right):
                break
            if at_right >= 0.0:
                return _between(function, left, at_left, right, at_right)
            left, at_left, size = right, at_right, size * 1.7
    return None


def _between(function: Callable[[float], float], a: float, fa: float, b: float, fb: float) -> float:
    for step in range(STEPS):
        middle = 0.5 * (a + b) if step % 3 == 2 else b - fb * (b - a) / (fb - fa) if fb != fa else 0.5 * (a + b)
        value = function(middle)
        if value == 0.0 or abs(b - a) <= 1e-15 * max(abs(a), abs(b), 1e-300):
            return middle
        if value < 0.0:
            a, fa = middle, value
        else:
            b, fb = middle, value
    return a if abs(fa) < abs(fb) else b


def _array(value: Any) -> Array:
    return np.array(value.detach().numpy()) if isinstance(value, torch.Tensor) else np.asarray(value)
