"""Activations: another form, slope, scale or axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from isomorph.parity.explaining.cause_tests.base import Again, alternative

# name -> (attribute of the module, position in the function, honest default, values often met in its place)
NUMBERS: dict[str, tuple[str, int, float, tuple[float, ...]]] = {
    "LeakyReLU": ("negative_slope", 1, 0.01, (0.01, 0.3, 0.2, 0.1, 0.0)),
    "leaky_relu": ("negative_slope", 1, 0.01, (0.01, 0.3, 0.2, 0.1, 0.0)),
    "ELU": ("alpha", 1, 1.0, (1.0, 0.0)),
    "elu": ("alpha", 1, 1.0, (1.0, 0.0)),
    "CELU": ("alpha", 1, 1.0, (1.0,)),
    "celu": ("alpha", 1, 1.0, (1.0,)),
    "Softplus": ("beta", 1, 1.0, (1.0,)),
    "softplus": ("beta", 1, 1.0, (1.0,)),
    "Hardtanh": ("max_val", 2, 1.0, (1.0, 6.0)),
    "hardtanh": ("max_val", 2, 1.0, (1.0, 6.0)),
    "Softshrink": ("lambd", 1, 0.5, (0.5,)),
    "softshrink": ("lambd", 1, 0.5, (0.5,)),
    "Hardshrink": ("lambd", 1, 0.5, (0.5,)),
    "Threshold": ("threshold", 1, 0.0, (0.0,)),
}

POINTWISE: dict[str, Any] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu (erf)": F.gelu,
    "gelu (tanh)": lambda x: F.gelu(x, approximate="tanh"),
    "gelu (x * sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardswish (x * relu6(x + 3) / 6)": lambda x: x * F.relu6(x + 3) / 6,
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid (0.2 x + 0.5)": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "leaky relu (0.01)": F.leaky_relu,
    "x squared where positive": lambda x: F.relu(x).square(),
    "identity": lambda x: x,
    "exp": torch.exp,
    "log": torch.log,
    "exp(x) - 1": lambda x: torch.exp(x) - 1,
    "log(1 + x)": lambda x: torch.log(1 + x),
    "abs": torch.abs,
}
NAMES = (
    "ReLU", "ReLU6", "GELU", "SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "ELU", "SELU", "CELU", "Softplus",
    "Softsign", "Mish", "LogSigmoid", "LeakyReLU", "PReLU", "relu", "relu6", "gelu", "silu", "hardswish", "hardsigmoid",
    "sigmoid", "tanh", "elu", "selu", "celu", "softplus", "softsign", "mish", "logsigmoid", "leaky_relu", "prelu",
)  # fmt: skip


@alternative(*NUMBERS)
def number(again: Again) -> Iterator[tuple[str, Any]]:
    kind = type(again.module).__name__ if isinstance(again.module, torch.nn.Module) else again.live.function.__name__
    name, place, default, known = NUMBERS[kind]
    if isinstance(again.module, torch.nn.Module):
        honest = float(getattr(again.module, name))
        found = again.solve(lambda value: again.having(**{name: value}), known, honest, positive=honest > 0)
    else:
        honest = float(again.argument(name, place, default))
        found = again.solve(lambda value: again.given(name, place, value), known, honest, positive=honest > 0)
    if found is not None:
        same = f"{found[0]:.4g}" == f"{honest:.4g}"
        shown = (
            f"{found[0]:.9g}, not {honest:.9g} (rounded to float32)" if same else f"{found[0]:.4g}, not {honest:.4g}"
        )
        yield f"{name.replace('_', ' ')} is {shown}", found[1]


@alternative(*NAMES)
def form(again: Again) -> Iterator[tuple[str, Any]]:
    kind = again.fault.kind.removeprefix("F.").removeprefix("torch.").removeprefix("Tensor.")
    for name, function in POINTWISE.items():
        if name.split(" (")[0].replace(" ", "_") != kind.lower() or "(" in name:
            yield f"{name}, not {kind}", function(again.x)


@alternative("PReLU")
def prelu(again: Again) -> Iterator[tuple[str, Any]]:
    weight = again.module.weight.detach()
    if weight.numel() > 1 and again.x.shape[-1] == weight.numel():
        yield "the slopes go along the last axis, not axis 1", torch.where(again.x > 0, again.x, again.x * weight)


# -------------------------------------------------------------------------------------------------------------- softmax
@alternative("Softmax", "softmax", "LogSoftmax", "log_softmax", "Softmax2d", "Softmin")
def softmax(again: Again) -> Iterator[tuple[str, Any]]:
    x = again.x
    dim = again.number("dim", 1, None)
    dim = int(-1 if dim is None else dim) % x.ndim
    logarithm = "log" in again.fault.kind.lower()
    honest, other = (F.log_softmax, F.softmax) if logarithm else (F.softmax, F.log_softmax)
    for axis in range(x.ndim):
        if axis != dim:
            yield f"over axis {axis}, not {dim}", honest(x, axis)
    yield f"{'softmax' if logarithm else 'log_softmax'} in its place", other(x, dim)
    if logarithm:
        yield "the logarithm of softmax, not log_softmax", torch.log(F.softmax(x, dim))
    else:
        yield "exp without the maximum subtracted", torch.exp(x) / torch.exp(x).sum(dim, keepdim=True)
        yield "sigmoid in its place", torch.sigmoid(x)
    for factor in {size for size in (*x.shape,) if size > 1}:
        for text, value in ((f"1/sqrt({factor})", factor**-0.5), (f"sqrt({factor})", factor**0.5)):
            yield f"of the scores times {text}", honest(x * value, dim)
    yield "minus infinities are finite (-1e4) in the mask", honest(torch.where(torch.isinf(x), -1e4, x), dim)
    yield "minus infinities are finite (-1e9) in the mask", honest(torch.where(torch.isinf(x), -1e9, x), dim)


# -------------------------------------------------------------------------------------------------------------- dropout
@alternative("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "dropout")
def dropout(again: Again) -> Iterator[tuple[str, Any]]:
    rate = again.number("p", 1, 0.5)
    x, keep = again.x, 1.0 - float(rate)
    expected = torch.from_numpy(again.fault.expected[0].copy())
    if 0.0 < keep < 1.0:
        if torch.equal(expected, x):
            got, _ = again.fault.observed()
            if got is not None:
                kept = torch.from_numpy(got.copy()) != 0
                yield "dropout is left on", torch.where(kept, x / keep, 0.0)
                yield "dropout is left on, without its scale", torch.where(kept, x, 0.0)
        else:
            yield "dropout is left off", x
            yield f"kept values are not scaled by 1/(1 - {rate:g})", expected * keep
            yield f"kept values are scaled by 1/(1 - {rate:g}) twice", expected / keep


# ------------------------------------------------------------------------------------------------- functions of tensors
@alternative("masked_fill", "masked_fill_", "where")
def mask(again: Again) -> Iterator[tuple[str, Any]]:
    got, place = again.fault.observed()
    if got is None:
        return
    expected = torch.from_numpy(again.fault.expected[place].copy())
    for value in (-1e4, -1e9, -3.4028234663852886e38, -100.0, -1e30, 0.0):
        yield f"masked with {value:g}, not -infinity", torch.where(torch.isneginf(expected), value, expected)


@alternative("exp", "expm1", "log1p", "log", "sqrt", "rsqrt")
def transcendental(again: Again) -> Iterator[tuple[str, Any]]:
    x, name = again.x, again.live.function.__name__
    for high in (80.0, 88.0, 100.0, 50.0, 20.0, 10.0):
        yield (
            f"the argument is clipped to {high:g}",
            again.run(lambda t, *a, high=high, **k: again.live.function(t.clamp_max(high))),
        )
    naive = {"expm1": lambda: torch.exp(x) - 1, "log1p": lambda: torch.log(1 + x), "log": lambda: torch.log1p(x),
             "rsqrt": lambda: 1 / x.sqrt().add(1e-5), "exp": lambda: torch.expm1(x)}.get(name)  # fmt: skip
    text = {"expm1": "exp(x) - 1", "log1p": "log(1 + x)", "log": "log(1 + x), not log(x)",
            "rsqrt": "epsilon outside the root", "exp": "exp(x) - 1, not exp(x)"}.get(name, "")  # fmt: skip
    if naive is not None:
        yield text, naive()


@alternative("div", "__truediv__", "__rtruediv__", "mul", "__mul__", "__rmul__", "true_divide", "multiply")
def scale(again: Again) -> Iterator[tuple[str, Any]]:
    numbers = [a for a in again.live.args if isinstance(a, int | float) and not isinstance(a, bool)]
    if len(numbers) == 1 and len(again.fault.inputs) == 1:
        number, divides = float(numbers[0]), "div" in again.live.function.__name__
        shown = f"{number:.6g}" + (f" = sqrt({round(number**2)})" if math.isclose(number**2, round(number**2)) else "")
        yield f"{'not divided by' if divides else 'not multiplied by'} {shown}", again.x
        yield "divided where it is to be multiplied, or the reverse", again.x * number if divides else again.x / number
