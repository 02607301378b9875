"""Nodes that are real layers of torch: which function tries to make one, by domain and op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["find", "layer"]

_LAYERS: dict[tuple[str, str], Callable[..., Any]] = {}


def layer(op: str, domain: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function `f(site, *operands, **attributes) -> tuple | None`: what the node gives, or None where it is no
    layer and the rule serves. Raises ValueError on a second one for the same op."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        if (domain, op) in _LAYERS:
            raise ValueError(f"two layers for {domain or 'ai.onnx'}.{op}")
        _LAYERS[domain, op] = function
        return function

    return enter


def find(domain: str, op: str) -> Callable[..., Any] | None:
    return _LAYERS.get((domain, op))
