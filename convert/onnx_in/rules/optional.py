"""Optionals: what is absent is None."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from ..operands import info_of, leaf
from ..registry import rule


@rule("Optional", since=15)
def optional(x: Any = None, *, type: Any = None) -> Any:
    return (x,)


@rule("OptionalHasElement", since=15)
def optional_has_element(x: Any = None, *, site: Any) -> Any:
    """Known while lowering, unless it is an optional that comes from outside."""
    return has_element(x) if _optional(x, site) else torch.tensor(x is not None)


@rule("OptionalGetElement", since=15)
def optional_get_element(x: Any, *, site: Any) -> Any:
    return (element_of(x),) if _optional(x, site) else (x,)


def _optional(x: Any, site: Any) -> bool:
    """Whether the input may be absent at run time: one of an optional type that is not known to hold a tensor."""
    if x is None or isinstance(x, list) or info_of(x).element is not None:
        return False
    given = site.node.inputs[0]
    return given is not None and isinstance(given.type, ir.OptionalType)


@leaf
def has_element(x: Any) -> torch.Tensor:
    """A bool, 0-d."""
    return torch.tensor(x is not None)


@leaf
def element_of(x: Any) -> Any:
    """What the optional holds. Raises ValueError: it is empty."""
    if x is None:
        raise ValueError("the optional is empty")
    return x
