"""The table of rules: ATen overload -> how it is written in `keras.ops` and Keras layers.

    @rule("aten.leaky_relu.default", layout=ELEMENTWISE)
    def leaky_relu(k, x, negative_slope):
        return ops.where(x > 0, x, x * negative_slope)

A rule receives a `Builder` (see `builder.py`) and the op's arguments in the order of the ATen schema, defaults filled
in; keyword-only arguments come by name, and those that mean nothing here (device, layout, pin_memory, memory_format,
generator, non_blocking, copy) never come. Tensors are backend tensors or KerasTensors: the same function computes in
the one case and builds a Functional node in the other. It returns a tensor, or a tuple where the op has several
outputs. Complex tensors come at call time only.

`layout` says which axis order the rule works in (torch order otherwise):
    TORCH        operands and results in torch order
    ELEMENTWISE  all operands broadcast together, results like them: any order
    MAPPED       any order of the first operands of full rank; the rule maps each axis with `k.axis(dim)`
    SPATIAL      args[0] channels last (N, *spatial, C), first result likewise; other operands in torch order

`promote=True` casts tensor operands to the dtype torch computes in (the result's for arithmetic, the operands' common
one for comparisons). `modal` names the arguments that may differ between train and eval mode and arrive as `ByMode`.

`layer_form(key)` registers a second form that makes a real Keras layer; it is taken when every parameter among the
operands belongs to this op alone (then parameters arrive as `ParamRef`).
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Layout(enum.Enum):
    """The axis order in which a rule works."""

    TORCH = "torch"
    ELEMENTWISE = "elementwise"
    MAPPED = "mapped"
    SPATIAL = "spatial"


TORCH, ELEMENTWISE, MAPPED, SPATIAL = Layout.TORCH, Layout.ELEMENTWISE, Layout.MAPPED, Layout.SPATIAL

Lower = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """How one ATen overload is lowered. `family` is the file the rule stands in."""

    key: str
    lower: Lower
    layout: Layout = TORCH
    promote: bool = False
    modal: tuple[str, ...] = ()
    random: bool = False
    family: str = ""


@dataclass(frozen=True)
class LayerForm:
    """The real-layer form of an op. `params` names the arguments that must be parameters of this op alone."""

    key: str
    build: Lower
    params: tuple[str, ...] = field(default=())


RULES: dict[str, Rule] = {}
LAYER_FORMS: dict[str, LayerForm] = {}


def rule(
    *keys: str, layout: Layout = TORCH, promote: bool = False, modal: tuple[str, ...] = (), random: bool = False
) -> Callable[[Lower], Lower]:
    """Register a rule under one or more ATen overload names. A second rule for a name raises ValueError."""

    def register(function: Lower) -> Lower:
        for key in keys:
            if key in RULES:
                raise ValueError(f"{key} has a rule already, in {RULES[key].family}")
            RULES[key] = Rule(key, function, layout, promote, modal, random, function.__module__.rpartition(".")[2])
        return function

    return register


def layer_form(*keys: str, params: tuple[str, ...]) -> Callable[[Lower], Lower]:
    """Register the real-layer form of ops. `params`: argument names that arrive as `ParamRef` (or None).

    A name that is no argument of the function raises ValueError: the form would never see the parameter.
    """

    def register(function: Lower) -> Lower:
        strange = [name for name in params if name not in inspect.signature(function).parameters]
        if strange:
            raise ValueError(f"the layer form of {', '.join(keys)} has no argument {', '.join(strange)}")
        for key in keys:
            if key in LAYER_FORMS:
                raise ValueError(f"{key} has a layer form already")
            LAYER_FORMS[key] = LayerForm(key, function, params)
        return function

    return register


FAMILIES = (
    "elementwise",
    "elementwise_math",
    "special",
    "activation",
    "compare",
    "reduce",
    "loss",
    "shape",
    "window",
    "diagonal",
    "create",
    "index",
    "scatter",
    "search",
    "sort",
    "linear",
    "linalg",
    "fft",
    "conv",
    "norm",
    "pool",
    "resize",
    "sample",
    "attention",
    "rnn",
    "random",
    "control",
)


def load_rules() -> dict[str, Rule]:
    """Import every family and return the table. Importing is what registers."""
    import importlib

    for family in FAMILIES:
        importlib.import_module(f"{__package__}.{family}")
    return RULES
