"""Rows: activation functions, on normal values and on the grid where they have their kinks."""

from __future__ import annotations

import torch

from .harness import Case, rand
from .values import call, each, grid, specials

R, X = rand(3, 4) * 3, grid(6, 8, scale=3)
IMAGE = grid(2, 6, 3, 3)
DEAD = torch.where(rand(3, 4) > 0.5, float("-inf"), rand(3, 4)).index_fill(0, torch.tensor([1]), float("-inf"))

POINTWISE = (
    "relu relu6 hardtanh leaky_relu elu celu selu gelu silu softplus mish log_sigmoid hardswish "
    "hardshrink softshrink rrelu"
)

CASES: list[Case] = [
    *each(POINTWISE, X, dynamic=True, tag="grid"),
    *each(POINTWISE, R * 20, tag="wide"),
    *each(
        "relu leaky_relu hardtanh elu silu softplus hardshrink softshrink", specials()[:3], tag="specials", grad=False
    ),
    call("hardsigmoid.default", X, dynamic=True, rtol=1e-7),  # torch's own backward holds 1/6 in float32
    call("hardtanh.default", X, 0.0, 6.0, tag="relu6"),
    *each("hardsigmoid hardswish gelu softplus mish silu", rand(1, 0, 3), tag="empty"),
    call("hardtanh.default", X, -0.5, 2.0, tag="bounds"),
    call("leaky_relu.default", X, 0.2, tag="slope"),
    call("elu.default", X, 0.7, 1.3, 0.5, tag="scaled"),
    call("elu.default", X, 0.7, tag="alpha"),
    call("celu.default", X, 0.5, tag="alpha"),
    call(
        "gelu.default",
        specials()[:3],
        tag="specials",
        grad=False,
        xfail="TensorFlow's erf of infinity is NaN in float64; a clip would slow every gelu",
    ),
    call("gelu.default", R, approximate="tanh", tag="tanh"),
    call("softplus.default", X * 3, 2.0, 5.0, tag="beta"),
    call("hardshrink.default", X, 1.0, tag="lambda"),
    call("softshrink.default", X, 1.0, tag="lambda"),
    call("leaky_relu.default", X.float(), 0.2, tag="float32", rtol=1e-6),
    call("softplus.default", (X * 5).float(), tag="float32", rtol=1e-6),
    call("threshold.default", X, 0.5, -3.0),
    call("rrelu.default", X, 0.1, 0.3, False, tag="eval"),
    Case(
        "log_sigmoid_forward",
        ("aten.log_sigmoid_forward.default",),
        lambda x: torch.ops.aten.log_sigmoid_forward(x)[0],
        lambda: [R],
    ),
    Case("prelu_one", ("aten.prelu.default",), lambda: torch.nn.PReLU(), lambda: [X], module=True),
    Case(
        "prelu_channels", ("aten.prelu.default",), lambda: torch.nn.PReLU(6), lambda: [IMAGE], module=True, dynamic=True
    ),
    call("prelu.default", grid(5)[2], torch.tensor([0.25], dtype=torch.float64), tag="number"),
    call("prelu.default", grid(5), torch.tensor([0.25], dtype=torch.float64), tag="vector"),
    *[call("glu.default", rand(2, 6, 4), d, tag=f"axis{d}") for d in (1, -1)],
    *[call(f"{n}.int", rand(2, 5, 4), d, tag=f"axis{d}") for n in ("softmax", "log_softmax") for d in (-1, 1, 0)],
    *[call(f"{n}.default", rand(2, 5, 4), 1, False) for n in ("_softmax", "_log_softmax")],
    call("softmax.int", rand(3, 4, dtype=torch.float32), -1, torch.float64, tag="dtype", grad=False),
    call("softmax.int", rand(3, 4) * 300, -1, tag="large"),
    call("softmax.int", torch.tensor(1.5, dtype=torch.float64), 0, tag="scalar"),
    call("log_softmax.int", torch.tensor(1.5, dtype=torch.float64), 0, tag="scalar"),
    call("_safe_softmax.default", DEAD, -1),
    Case(
        "softmin",
        ("aten.softmax.int",),
        lambda: torch.nn.Softmin(dim=1),
        lambda: [rand(2, 5)],
        module=True,
        dynamic=True,
    ),
    Case("tanhshrink", ("aten.tanh.default",), lambda: torch.nn.Tanhshrink(), lambda: [X], module=True),
    Case("softsign", ("aten.abs.default",), lambda: torch.nn.Softsign(), lambda: [X], module=True),
]
